"""Trackers of a run: its name in them, where it goes on, and tables of predictions."""
