"""A run: its arguments, its data, its folder, and where it resumes."""
