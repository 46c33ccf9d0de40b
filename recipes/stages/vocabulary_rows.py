"""The number of rows of a new embedding table."""

from collections.abc import Sized

VOCABULARY_MULTIPLE = 64


def vocabulary_rows(tokenizer: Sized) -> int:
    """Rows for all tokens of a tokenizer, a multiple of `VOCABULARY_MULTIPLE`."""
    return -(-len(tokenizer) // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
