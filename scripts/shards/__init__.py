"""What `openpali web` does with files: hashes of images, tables, tar shards, processes."""
