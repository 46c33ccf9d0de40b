"""Training, for every stage: trainer, optimizer, engines, validation, progress, and what a run survives."""
