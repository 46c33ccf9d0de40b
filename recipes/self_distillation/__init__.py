"""Batches of SigLIP 2's pretraining, and what happens between its steps."""
