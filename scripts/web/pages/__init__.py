"""Pages about what `openpali web` has made: the report on what was dropped, and the card of the set."""
