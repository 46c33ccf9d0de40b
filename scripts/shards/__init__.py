"""What scripts over tar shards share."""
