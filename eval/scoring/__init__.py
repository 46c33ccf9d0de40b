"""Shared code of the metrics: answers, boxes, tokens of captions, recall, and the order of images."""
