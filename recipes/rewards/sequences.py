"""From prompts and sampled answers to the inputs of training: a row for each answer that is trained.

Shapes: `B` prompts, `K` samples of each, `N` rows, `L` tokens of a sequence, `P` of an image, `D` width.
"""

from collections.abc import Sequence
from typing import Any

import torch

from openpali.data.collator import Collator
from openpali.data.example import Example
from openpali.modeling.location_tokens import SURE, UNSURE
from openpali.modeling.token_loss import IGNORE_INDEX

EXAMPLES = "examples"


class PromptCollator:
    """A collator of prompts without suffixes, with the examples themselves under `examples`."""

    def __init__(self, collator: Collator):
        self.collator = collator

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        """The batch of the collator, on the side of padding that generation needs."""
        return {**self.collator(examples), EXAMPLES: list(examples)}


def repeated(
    inputs: dict[str, torch.Tensor], images: dict[str, torch.Tensor], examples: Sequence[Example], times: int
) -> dict[str, torch.Tensor]:
    """Inputs of prompts, each `times` in a row, with its images as a group.

    Args:
        inputs: `input_ids`, `attention_mask` and so on, int[B, L].
        images: tensors with a row for each image, of all examples in order; empty without images.
        examples: with the images.
        times: K.

    Returns:
        int[B * K, L] each, and the images.
    """
    rows = {key: value.repeat_interleave(times, 0) for key, value in inputs.items()}
    counts = [len(example.images) for example in examples]
    groups = {key: value.split(counts) for key, value in images.items()}
    return rows | {key: torch.cat([part for part in parts for _ in range(times)]) for key, parts in groups.items()}


def training_rows(
    inputs: dict[str, torch.Tensor], answers: Sequence[Sequence[int]], is_encoder_decoder: bool, pad: int, start: int
) -> dict[str, torch.Tensor]:
    """Inputs of training for prompts and the tokens of their answers.

    Args:
        inputs: of prompts, a row for each answer; `image_features` stay as they are.
        answers: tokens of each, end token included; none is empty.
        is_encoder_decoder: whether answers are targets of a decoder, or follow their prompts.
        pad: token of padding.
        start: token that a decoder begins with.

    Returns:
        `labels`, -100 on prompts and padding, and the model's inputs, padded on the right; for an encoder-decoder
        with `decoder_input_ids`, since labels may be replaced.
    """
    if is_encoder_decoder:
        labels = padded(answers, IGNORE_INDEX, inputs["input_ids"])
        decoder = padded([[start, *answer[:-1]] for answer in answers], pad, labels)
        return inputs | {"labels": labels, "decoder_input_ids": decoder}
    prompts, types = inputs["input_ids"].tolist(), inputs["token_type_ids"].tolist()
    kept = inputs["attention_mask"].bool().tolist()
    prompts = [[token for token, one in zip(*row) if one] for row in zip(prompts, kept)]
    types = [[kind for kind, one in zip(*row) if one] for row in zip(types, kept)]
    rows = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    like = inputs["input_ids"]
    made = {
        "input_ids": padded(rows, pad, like),
        "attention_mask": padded([[1] * len(row) for row in rows], 0, like),
        "token_type_ids": padded([[*kind, *[1] * len(answer)] for kind, answer in zip(types, answers)], 0, like),
        "labels": padded([[IGNORE_INDEX] * len(p) + list(a) for p, a in zip(prompts, answers)], IGNORE_INDEX, like),
    }
    return inputs | made


def padded(rows: Sequence[Sequence[int]], value: int, like: torch.Tensor) -> torch.Tensor:
    """Rows of tokens, padded on the right, on the device of another tensor: int[N, L]."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows], device=like.device)


def answer_columns(losses: torch.Tensor, rows: dict[str, torch.Tensor], is_encoder_decoder: bool) -> torch.Tensor:
    """Losses at the positions of their tokens' labels, float[N, L]: a decoder-only model has them one before."""
    return losses if is_encoder_decoder else torch.nn.functional.pad(losses[:, :-1], (1, 0))


class ConfidenceTokens:
    """The confidences that answers have behind their labels, and their soft targets."""

    def __init__(self, tokenizer: Any) -> None:
        """Find the two tokens, those of places, and the separators of boxes."""
        self.unsure, self.sure = tokenizer.convert_tokens_to_ids([UNSURE, SURE])
        self.tokenizer = tokenizer

    def places(self, answer: Sequence[int]) -> list[list[int]]:
        """For each part of an answer between separators its location tokens: positions in the answer."""
        parts: list[list[int]] = [[]]
        for position, token in enumerate(answer):
            if self.unsure <= token <= self.sure:
                parts[-1].append(position)
            elif ";" in self.tokenizer.decode([token]):
                parts.append([])
        return parts

    def found(self, answer: Sequence[int]) -> list[tuple[tuple[int, ...], int]]:
        """Boxes with a confidence: the four numbers y0, x0, y1, x1 of their tokens, and the confidence's position."""
        found = []
        for part in self.places(answer):
            if len(part) == 5 and part[4] > part[3] + 1 and answer[part[4]] in (self.unsure, self.sure):
                found.append((tuple(answer[position] - self.unsure for position in part[:4]), part[4]))
        return found

    def targets(self, answer: Sequence[int], ious: Sequence[tuple[Sequence[float], float]]) -> list[tuple[int, float]]:
        """Positions of the confidences of an answer, and the IoU that their boxes reach.

        Args:
            answer: its tokens.
            ious: boxes as the task parsed them, x0, y0, x1, y1, in order, with their IoU; others reach none.
        """
        left, found = list(ious), []
        for (y0, x0, y1, x1), position in self.found(answer):
            box = [value / (self.sure - self.unsure) for value in (x0, y0, x1, y1)]
            match = next(
                (i for i, (one, _) in enumerate(left) if all(abs(a - b) < 1e-6 for a, b in zip(one, box))), None
            )
            found.append((position, 0.0 if match is None else left.pop(match)[1]))
        return found
