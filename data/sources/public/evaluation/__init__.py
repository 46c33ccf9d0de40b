"""Public datasets for evaluation alone: pairs of images, views of objects, and people with labels."""
