"""What one stage alone needs."""
