"""95 % bootstrap confidence intervals of scores."""
