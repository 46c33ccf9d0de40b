"""`openpali web`: from raw image-text shards to the input of stage 1, on Ray: filter, deduplicate, label."""
