"""From files to batches: examples, sources, tasks, mixtures and the collator."""
