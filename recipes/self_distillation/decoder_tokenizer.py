"""Tokenizers of SigLIP 2's pretraining: lower-cased ones, and the decoder's with location tokens."""

import copy
from typing import Any

from tokenizers.normalizers import Lowercase
from tokenizers.normalizers import Sequence as Normalizers

from openpali.data.files.config import ConfigError
from openpali.modeling.processing_tokenizer import LOCATION_TOKENS


def lower_cased(tokenizer: Any) -> Any:
    """The tokenizer, which lower-cases texts from now on, also after it was saved and loaded.

    Raises:
        ConfigError: it cannot.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ConfigError("lower_case: this tokenizer is not a fast one; give lower_case: false")
    known = backend.normalizer
    if known is None or known.normalize_str("A") != known.normalize_str("a"):
        backend.normalizer = Normalizers([Lowercase(), *([known] if known is not None else [])])
    return tokenizer


def with_locations(tokenizer: Any) -> Any:
    """A copy of the tokenizer with location tokens, for the decoder alone."""
    own = copy.deepcopy(tokenizer)
    # only those that it lacks
    own.add_tokens(LOCATION_TOKENS)
    return own
