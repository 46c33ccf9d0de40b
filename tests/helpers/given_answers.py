"""An `Answerer` that gives one answer to everything, and its page."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from openpali.eval.answering.decoding import Answer, Token
from openpali.eval.predicting.objects import MaskReader
from openpali.eval.web.answerer import Answerer
from openpali.eval.web.prompts import CAPTION, DETECT

BOX = "<loc0256><loc0512><loc0768><loc1023>"


def with_tokens(text: str, probability: float = 0.6) -> Answer:
    """An answer each token of which has this probability: one for each location and each word."""
    parts = text.replace(">", "> ").split(" ")
    return Answer(text, [Token(part, math.log(probability)) for part in parts if part])


def gives(monkeypatch: Any, answer: Answer, codec: Any = None, **options: Any) -> Answerer:
    """An answerer that gives this answer."""

    def answer_prompts(model: Any, processor: Any, group: Any, prompts: Any, *_: Any) -> list[list[Answer]]:
        return [[answer] * len(prompts) for _ in group]

    monkeypatch.setattr("openpali.eval.web.answerer.answer_prompts", answer_prompts)
    masks = MaskReader(None, "model", needed=False, verb="demo")
    masks.codec = codec
    return Answerer(torch.nn.Identity(), None, masks, **options)  # type: ignore[arg-type]


@contextmanager
def page_of(answerer: Answerer) -> Iterator[str]:
    """The address of its page, while that is served."""
    from openpali.eval.web.page import Look, build_page, launch

    look = Look("a/model", "of no parameters", [CAPTION, DETECT], [], "", several=True, num_beams=1, max_new_tokens=8)
    page = build_page(answerer, look)
    try:
        yield launch(page, "127.0.0.1", None, queue_size=4)
    finally:
        page.close(verbose=False)
