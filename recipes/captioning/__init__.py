"""Captioners: batches of their decoder, their location tasks, and their scores."""
