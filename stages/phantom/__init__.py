"""Synthetic abdominal CTs with a known liver: the default data, and the tests'."""
