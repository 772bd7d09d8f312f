"""Augmentation: what is drawn for a sample, and how it is done to a batch on its device."""
