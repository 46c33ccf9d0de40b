"""Tuning on rewards: answers are sampled, scored by the task's metric, and made likelier or less likely."""
