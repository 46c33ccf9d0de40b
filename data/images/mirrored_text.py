"""Swap left and right in a text, for a mirrored image.

A language has pairs of words to swap, and expressions for which a text is rejected: where the words mean something
else ("right next to", 左右 for "about"), and what cannot be mirrored (clock hands, digits and quoted letters). For
some languages only the words are known: their texts pass without these words. Other languages are rejected.
"""

import re

Pairs = tuple[tuple[str, str], ...]

_WORDS: dict[str, Pairs] = {
    "en": (("left", "right"), ("leftmost", "rightmost"), ("leftward", "rightward"), ("leftwards", "rightwards")),
    "de": (("links", "rechts"), *((f"link{end}", f"recht{end}") for end in ("e", "er", "es", "en", "em"))),
    "es": (("izquierda", "derecha"), ("izquierdas", "derechas"), ("izquierdo", "derecho")),
    "pt": (("esquerda", "direita"), ("esquerdas", "direitas"), ("esquerdo", "direito")),
    "it": (("sinistra", "destra"), ("sinistro", "destro"), ("sinistre", "destre"), ("sinistri", "destri")),
    "id": (("kiri", "kanan"),),
}
"""Whole words."""

_PARTS: dict[str, Pairs] = {
    "zh": (("左", "右"),),
    "ja": (("左", "右"),),
    "ko": (("왼쪽", "오른쪽"), ("왼편", "오른편")),
}
"""Parts of words, in scripts without spaces or where both words take the same endings."""

_MARKS = r"""["“”„«»「」『』]|\d(?!(?:st|nd|rd|th)\b)"""
_REFUSED = {
    "en": r"clock|\b(?:all|you're|that's) right\b|\b(?:is|are|was|were|be|been|being|has|have|had) left\b"
    r"|\bleft (?:over|behind|alone|out|open|off)\b|\b(?:l|r|lt|rt|lft|rgt|lhs|rhs|east|west|eastern|western)\b"
    r"|\bright (?:now|away|after|before|next|beside|behind|in|above|below|under|underneath|over|on|up|down|there|here"
    r"|by|at|out|through|into|angled?|angles|answer)\b",
    "de": r"uhr\b|\brecht(?:e|en)? (?:haben|hat)\b",
    "es": r"reloj|\btodo derecho\b|\bderechos\b|\bel derecho (?:a|de)\b",
    "pt": r"rel[oó]gio|\bdireitos\b|\bo direito (?:a|de)\b",
    "it": r"orologi|orari[oa]",
    "id": r"\bjam\b",
    "zh": r"左右",
    "ja": r"左右",
    "ko": r"좌|우측|시계",
}
_SIDES = {
    "fr": r"gauche|droit",
    "ru": r"лев[ыаоу]|прав[ыаоу]|слева|справа|влево|вправо|налево|направо",
    "tr": r"\bsol|\bsağ",
    "fa": r"چپ|راست",
    "ar": r"يسار|يمين|أيسر|أيمن|يسرى|يمنى",
}


def mirrored(text: str, language: str) -> str | None:
    """The text for the mirrored image, or None when it is not known.

    >>> mirrored("The dog on the left, right of a cat", "en")
    'The dog on the right, left of a cat'
    >>> mirrored("the dog right next to the cat", "en") is None
    True
    """
    if re.search(_MARKS, text):
        return None
    if language in _SIDES:
        return None if re.search(_SIDES[language], text.lower()) else text
    if language not in _REFUSED or re.search(_REFUSED[language], text.lower()):
        return None
    pairs = _WORDS.get(language) or _PARTS[language]
    other = {one: two for pair in pairs for one, two in (pair, pair[::-1])}
    longest_first = "|".join(sorted(map(re.escape, other), key=len, reverse=True))
    pattern = rf"\b(?:{longest_first})\b" if language in _WORDS else longest_first
    return re.sub(pattern, lambda match: _as_written(match[0], other[match[0].lower()]), text, flags=re.IGNORECASE)


def _as_written(old: str, new: str) -> str:
    """The new word in the capitals of the old one."""
    if old.isupper():
        return new.upper()
    return new.capitalize() if old[0].isupper() else new
