"""Features of a frozen image encoder, computed once and kept on disk."""
