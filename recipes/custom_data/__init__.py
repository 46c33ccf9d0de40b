"""Checks of custom data before a model is trained on it, and the defaults that follow from it."""
