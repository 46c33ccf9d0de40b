"""Scores as text: their names, units and intervals."""

import math

NAMES = {"f1": "F1", "map": "mAP", "map50": "mAP 50", "iou": "IoU", "cider": "CIDEr"}
NAMES |= {"anls": "ANLS", "bleu": "BLEU", "rouge": "ROUGE", "l": "L"}
# values that are numbers of something, by the end of their names
COUNTS = ("examples", "codes_used", "perplexity")


def format_value(value: float, key: str) -> str:
    """A metric as text, in its unit."""
    if math.isnan(value):
        return "undefined"
    if key == "examples":
        return f"{value:.0f}"
    return f"{shown_number(value, key):.1f}" + (" %" if unit_of(key) == "%" else "")


def shown_number(value: float, key: str) -> float:
    """A metric in the unit in which it is shown."""
    return 100 * value if unit_of(key) == "%" else value


def unit_of(key: str) -> str:
    """The unit in which a metric is shown: `%`, `loss`, `count`, or `CIDEr`, which is x 100 already and no share."""
    if is_cider(key):
        return "CIDEr"
    if key.split("_")[-1] == "loss":
        return "loss"
    return "count" if key.endswith(COUNTS) else "%"


def format_interval(ends: tuple[float, float], key: str) -> str:
    """The ends of an interval, with their unit once."""
    low, high = (format_value(end, key) for end in ends)
    return f"{low.removesuffix(' %')} – {high}"


def format_points(difference: float, key: str) -> str:
    """A difference of two scores as text: of shares in percentage points."""
    return format_value(difference, key).replace(" %", " points")


def is_cider(key: str) -> bool:
    """Whether a metric is CIDEr, of all captions or of those of a type."""
    return "cider" in key.split("_")


def format_metric_name(key: str) -> str:
    """The name of a metric in words: "mean IoU" for mean_iou."""
    return " ".join(NAMES.get(word, word) for word in key.split("_"))


def card_kind(score: float, key: str) -> str:
    """The CSS class of an example's score; a CIDEr of 100 is full marks."""
    full = 100 if is_cider(key) else 1
    return "right" if score >= full else "wrong" if score <= 0 else "partly"
