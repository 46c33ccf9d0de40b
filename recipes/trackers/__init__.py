"""Trackers of a run (trackio, wandb, TensorBoard): its name in them, where it goes on, and tables of predictions."""
