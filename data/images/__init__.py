"""Images: opened, checked, turned upright, augmented, and made into `pixel_values`."""
