"""Models behind the automatic labels of `openpali web`: loaded once in each process, and called on batches."""
