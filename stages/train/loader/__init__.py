"""The loader: where the training set lies, and batches of it, read ahead."""
