"""A nano web: raw shards from the built-in images with planted noise, and how much of it `openpali web` finds."""
