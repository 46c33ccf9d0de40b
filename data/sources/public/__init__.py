"""Public datasets in the layout in which they are handed out: one file for each family of datasets."""
