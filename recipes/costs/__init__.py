"""What a checkpoint is, and what a training costs before it is started: memory, FLOPs, GPUs."""
