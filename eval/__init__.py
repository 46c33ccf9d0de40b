"""Evaluation: decoding, metrics and the report."""
