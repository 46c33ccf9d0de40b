"""A run of `openpali web`: its configuration, its samples, its files, its tables, and Ray."""
