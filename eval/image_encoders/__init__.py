"""Image encoders by themselves: retrieval, zero-shot classification, linear probes, and their report."""
