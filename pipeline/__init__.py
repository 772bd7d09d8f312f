"""What you run: one module per command, ``python -m pipeline.<word>``."""
