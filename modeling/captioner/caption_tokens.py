"""Texts as a caption decoder reads them: prompt, text and end, padded, with the end kept where a text is cut."""

from collections.abc import Sequence
from typing import Any

import torch

from openpali.modeling.captioner.configuration_captioner import CaptionDecoderConfig
from openpali.modeling.control_tokens import Controls, controls_of_each, special_tokens, split_control_tokens


class CaptionTokens:
    """Makes labels of a decoder from texts.

    Args:
        tokenizer: that the decoder was trained with.
        config: of the decoder.
        text_length: tokens of a text, padding included; all of the decoder's positions when None.

    Raises:
        ValueError: the decoder has fewer positions.
    """

    def __init__(self, tokenizer: Any, config: CaptionDecoderConfig, text_length: int | None = None) -> None:
        positions = config.max_position_embeddings
        if text_length is not None and not 1 <= text_length <= positions:
            raise ValueError(f"text_length={text_length}: the decoder has 1 to {positions} positions")
        self.tokenizer, self.config, self.text_length = tokenizer, config, text_length or positions
        self.special = special_tokens(tokenizer)

    def __call__(
        self, prompts: Sequence[str], texts: Sequence[str], controls: Sequence[Controls] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`labels` int[N, L] and `label_weights` float[N, L], which are 0 on prompts and padding."""
        shape = len(texts), self.text_length
        labels, weights = torch.full(shape, int(self.config.pad_token_id or 0)), torch.zeros(shape)
        kinds = controls_of_each(controls or "none", len(texts))
        for row, (prompt, text, kind) in enumerate(zip(prompts, texts, kinds, strict=True)):
            ids, given = self.encode(prompt, text, kind)
            labels[row, : len(ids)] = torch.tensor(ids)
            weights[row, given : len(ids)] = 1
        return labels, weights

    def encode(self, prompt: str, text: str, controls: Controls = "none") -> tuple[list[int], int]:
        """Ids of prompt, text and end, cut to the text length with the end kept; and the number of the prompt."""
        given, rest = self.ids(prompt, controls), self.ids(text, controls)
        end: Any = self.config.eos_token_id
        ids = [*given, *rest][: self.text_length - 1] + [end]
        # where a prompt leaves no room for the text nothing is predicted
        return ids, len(given) if len(given) < self.text_length - 1 or not given else self.text_length

    def length(self, prompt: str, text: str, controls: Controls = "none") -> int:
        """Tokens of a prompt and a text that are not cut."""
        return len(self.ids(prompt, controls)) + len(self.ids(text, controls)) + 1

    def ids(self, text: str, controls: Controls = "none") -> list[int]:
        """Tokens of a text without special ones; letters that look like a control token stay letters."""
        pieces = split_control_tokens(text, self.special, controls) if text else []
        found = (self.tokenizer(piece, add_special_tokens=False, verbose=False)["input_ids"] for piece in pieces)
        return [token for ids in found for token in ids]
