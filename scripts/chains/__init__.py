"""What the small chains of stages share."""
