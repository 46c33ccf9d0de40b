"""Where each token stands in its text, as Transformers' processors tell it when they are asked.

`return_offsets_mapping` gives a span of characters for each token, `return_text_replacement_offsets` what became of
the placeholders. Both count in the expanded text, in which every `<image>` stands once for each of its image tokens;
masks of a chat's answers (`return_assistant_tokens_mask`) are made from them.
"""

import re
from collections.abc import Sequence
from typing import Any

Span = tuple[int, int]
# of tokens that stand for no text: special ones that were added, padding, the suffix
NOWHERE: Span = (0, 0)


def expand_spans(ids: Sequence[int], spans: Sequence[Span], image_token_id: int, repeats: int) -> list[Span]:
    """Spans of tokens whose placeholders are repeated, and shifted by what the repetitions before them add.

    Args:
        ids: int[L], one placeholder for each image.
        spans: of the tokens in their text.
        image_token_id: of the placeholder.
        repeats: tokens of one image.
    """
    expanded: list[Span] = []
    gained = 0
    for token, (start, end) in zip(ids, spans):
        width = end - start
        count = repeats if token == image_token_id else 1
        places = [start + gained + k * width for k in range(count)]
        expanded += [(place, place + width) if width else NOWHERE for place in places]
        gained += (count - 1) * width
    return expanded


def replaced(text: str, marked: str, image_token: str, repeats: int) -> list[dict[str, Any]]:
    """What became of each placeholder of a text, in the form of Transformers' processors.

    Args:
        text: as it was given.
        marked: with its placeholders, which are in front where the text had none.
        image_token: the placeholder.
        repeats: tokens of one image.
    """
    given = image_token in text
    wide = image_token * repeats
    found = []
    for number, match in enumerate(re.finditer(re.escape(image_token), marked)):
        start = match.start() + number * (len(wide) - len(image_token))
        new = (start, start + len(wide))
        fields = {"type": "image", "span": match.span() if given else NOWHERE, "new_span": new}
        found.append(fields | {"text": image_token if given else "", "replacement": wide})
    return found
