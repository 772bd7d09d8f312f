"""Predicting CTs never seen: models, the CTs found, one after the other."""
