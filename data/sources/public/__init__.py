"""Public datasets in their published layout: one file for each family of datasets."""
