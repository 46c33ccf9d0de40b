"""An end to answers that take too long, for any model and any way of decoding."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from openpali.modeling.user_errors import UserError


class TooSlow(UserError):
    """An answer that took longer than allowed. The message has the remedy."""


@contextmanager
def ends_at(model: nn.Module, end: float, seconds: float) -> Iterator[None]:
    """Stop a model at a time: the next call of the model or of its image encoder raises.

    A single call, such as that on the whole prompt, is not interrupted.

    Args:
        model: of which every `PreTrainedModel` inside is watched.
        end: in seconds of `time.monotonic`.
        seconds: the limit, for the message.

    Raises:
        TooSlow: the time has come.
    """

    def check(*_: Any) -> None:
        if time.monotonic() > end:
            raise TooSlow(
                f"stopped after {seconds:g} s: ask less at once, take fewer beams or a shorter answer, or start the"
                " page with a longer --time_limit"
            )

    watched = [part for part in model.modules() if isinstance(part, PreTrainedModel)]
    hooks = [part.register_forward_pre_hook(check) for part in watched]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
