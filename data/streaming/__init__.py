"""Datasets that are read in order: examples from tar shards, with a position that can be saved."""
