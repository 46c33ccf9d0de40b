"""Tasks: one short file each, from a record to an `Example`."""
