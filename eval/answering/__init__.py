"""Predictions of a model on a task: loading, decoding, confidences, the file of predictions, the scores."""
