"""How public and private data sets lie on the disk: one module for each way."""
