"""Copies and near copies of images: their hashes, the pairs among many shards, and connected components."""
