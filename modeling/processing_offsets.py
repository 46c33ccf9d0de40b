"""Character offsets of tokens, which Transformers' processors return on request.

`return_offsets_mapping` gives the span of characters of each token, `return_text_replacement_offsets` the expansion of
each placeholder. Both count in the expanded text, where `<image>` is repeated for each token of the image. Masks of a
chat's answers (`return_assistant_tokens_mask`) are made from them.

Shapes: `L` tokens of a sequence.
"""

import re
from collections.abc import Sequence
from typing import Any

Span = tuple[int, int]
# span of tokens without text in the prompt: added special tokens, padding, the suffix
NOWHERE: Span = (0, 0)


def expand_spans(ids: Sequence[int], spans: Sequence[Span], image_token_id: int, repeats: Sequence[int]) -> list[Span]:
    """Repeat the spans of placeholders for each image token, and shift the spans behind them.

    Args:
        ids: int[L], one placeholder for each image.
        spans: of the tokens in the text.
        image_token_id: of the placeholder.
        repeats: tokens of each image.
    """
    expanded, tokens = list[Span](), iter(repeats)
    gained = 0
    for token, (start, end) in zip(ids, spans):
        width = end - start
        count = next(tokens) if token == image_token_id else 1
        places = [start + gained + k * width for k in range(count)]
        expanded += [(place, place + width) if width else NOWHERE for place in places]
        gained += (count - 1) * width
    return expanded


def replacement_offsets(
    text: str, with_placeholders: str, image_token: str, repeats: Sequence[int]
) -> list[dict[str, Any]]:
    """The expansion of each placeholder of a text, in the form of Transformers' processors.

    Args:
        text: as given.
        with_placeholders: the text with its placeholders, which are in front where it was given without.
        image_token: the placeholder.
        repeats: tokens of each image.
    """
    given = image_token in text
    replacements, gained = [], 0
    for count, match in zip(repeats, re.finditer(re.escape(image_token), with_placeholders), strict=True):
        expanded, start = image_token * count, match.start() + gained
        gained += len(expanded) - len(image_token)
        new = (start, start + len(expanded))
        fields = {"type": "image", "span": match.span() if given else NOWHERE, "new_span": new}
        replacements.append(fields | {"text": image_token if given else "", "replacement": expanded})
    return replacements
