"""Control tokens such as `<image>` and `<eos>` in texts from data: which are allowed, and how others become letters.

A caption with the letters `<image>` or `<eos>` would otherwise put an image, or an end, into the middle of a sequence.
Such a text is split behind the first letter of each token, and its pieces are tokenised apart, so that no tokenizer
finds the token.
"""

import functools
import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal

# control tokens that a text may hold: all (the default of a direct call), locations and segments alone, or none
Controls = Literal["all", "places", "none"]
CONTROLS = ("all", "places", "none")

PLACES = r"<loc[0-9]{4}>|<seg[0-9]{3}>"
# special tokens of both families' tokenizers, to check texts without a tokenizer
SPECIAL = r"</?s>|<(?:image|bos|eos|pad|unk|mask|extra_id_[0-9]+)>"


def split_control_tokens(text: str, special: Sequence[str], controls: Controls) -> list[str]:
    """Split a text into pieces without the control tokens that it may not hold; one piece where there are none.

    >>> split_control_tokens("a <image> of <loc0001>", ["<image>"], "places")
    ['a <', 'image> of <loc0001>']

    Args:
        text: any.
        special: the tokenizer's special tokens.
        controls: the control tokens that it may hold.

    Raises:
        ValueError: `controls` is none of the three.
    """
    if controls not in CONTROLS:
        raise ValueError(f"controls is one of {', '.join(CONTROLS)}, not {controls!r}")
    if controls == "all" or "<" not in text and not any(token in text for token in special):
        return [text]
    cuts = [match.start() + 1 for match in _pattern(tuple(special), controls == "none").finditer(text)]
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)])]


@functools.lru_cache(maxsize=64)
def _pattern(special: tuple[str, ...], places: bool) -> re.Pattern[str]:
    words = [re.escape(token) for token in sorted(special, key=len, reverse=True) if len(token) > 1]
    return re.compile("|".join([*words, *([PLACES] if places else [])]) or r"(?!)")


def special_tokens(tokenizer: Any, *more: str) -> list[str]:
    """A tokenizer's special tokens, and `more`."""
    return list(dict.fromkeys([*tokenizer.all_special_tokens, *more]))


def spaced(text: str, special: Sequence[str]) -> str:
    """The text with a space inside each special token, for processors that tokenise it themselves."""
    return " ".join(split_control_tokens(text, special, "places"))


def found_controls(texts: Iterable[str], places: bool) -> list[str]:
    """Control tokens of both families in texts; locations and segments too with `places`."""
    pattern = f"{SPECIAL}|{PLACES}" if places else SPECIAL
    return [match[0] for text in texts for match in re.finditer(pattern, text)]


def controls_of_each(controls: Any, texts: int) -> list[Controls]:
    """The `controls` of every text, from one value for all or a list. Raises ValueError for another length."""
    if controls is None or isinstance(controls, str):
        chosen: Any = controls or "all"
        return [chosen] * texts
    if len(controls) != texts:
        raise ValueError(f"{texts} texts but {len(controls)} values of controls")
    return list(controls)
