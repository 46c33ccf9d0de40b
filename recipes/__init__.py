"""One file per training stage, readable from top to bottom."""
