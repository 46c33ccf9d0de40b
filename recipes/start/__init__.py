"""What a fine-tuning starts from: a checkpoint at another resolution, with adapters or without."""
