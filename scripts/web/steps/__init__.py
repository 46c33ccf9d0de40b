"""The steps of `openpali web`: one file each, with one function on a batch of samples."""
