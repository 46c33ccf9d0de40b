"""Masks and boxes of objects: RLE, polygons, and the mask tokenizer that tasks write masks with."""
