"""Checkpoints of big_vision: arrays, names, configurations and processors in Transformers."""
