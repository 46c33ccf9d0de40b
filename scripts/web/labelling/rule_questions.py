"""English captions of a batch, and the pairs of question and answer that rules find in them."""

from openpali.data.tasks.parts.caption_questions import caption_questions
from openpali.data.tasks.parts.captions import captions_in
from openpali.scripts.web.running.samples import WebSample

LANGUAGE = "en"
Pair = tuple[int, str, str, str]
"""Place of the sample in the batch, caption, question, answer."""


def captions_to_ask(batch: list[WebSample]) -> list[tuple[int, str]]:
    """Place of the sample and English caption, of samples without questions."""
    records = [(place, sample.record) for place, sample in enumerate(batch) if not sample.record.get("questions")]
    return [
        (place, text) for place, record in records if "captions" in record for text in captions_in(record, LANGUAGE)
    ]


def ruled_pairs(batch: list[WebSample]) -> list[Pair]:
    """The pairs of all captions."""
    found = ((place, text, pair) for place, text in captions_to_ask(batch) for pair in caption_questions(text))
    return [(place, text, pair.question, pair.answer) for place, text, pair in found]
