"""Texts under UL2's mixture of denoisers as a torch dataset, and its collator."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from openpali.data.records import BadRecord, SkipLog
from openpali.data.sources import Source
from openpali.data.text.span_corruption import UL2, Denoiser, SpecialTokens, corrupt, text_length
from openpali.modeling.token_loss import IGNORE_INDEX


class SpanCorruptionDataset(Dataset[dict[str, Any]]):
    """Item i is text i (modulo the number of texts), corrupted by a denoiser and spans drawn from (seed, i).

    A text that is too long for its denoiser is cropped at random. Packed, an item starts at a random token of its text
    and continues with the following texts, separated by the end token, until its input is full. Texts that are too
    short, and records that cannot be read, are skipped.
    """

    def __init__(
        self,
        texts: Source,
        tokenizer: Any,
        special: SpecialTokens,
        max_length: int,
        num_examples: int,
        weights: Mapping[str, float] | None = None,
        denoisers: Sequence[Denoiser] = UL2,
        packed: bool = False,
        seed: int = 0,
        skip_log: SkipLog | None = None,
    ) -> None:
        """Combine texts and denoisers.

        Args:
            texts: records with `text`.
            tokenizer: of the model.
            special: its sentinels, prefixes and end token.
            max_length: maximum tokens of an input, prefix and end token included.
            num_examples: length of the dataset.
            weights: of the denoisers by name, 0 where left out; uniform by default.
            denoisers: those to mix.
            packed: fill inputs with further texts.
            seed: of all random choices.
            skip_log: lists records that cannot be read.

        Raises:
            ValueError: there are no texts, too few sentinels for `max_length`, or invalid weights.
        """
        if len(texts) == 0:
            raise ValueError(f"{texts.name}: there are no texts")
        names = {denoiser.name: denoiser for denoiser in denoisers}
        weights = weights or dict.fromkeys(names, 1.0)
        if unknown := set(weights) - set(names):
            raise ValueError(f"weights: no denoiser {unknown.pop()!r}; there are {', '.join(names)}")
        if min(weights.values()) < 0 or sum(weights.values()) <= 0:
            raise ValueError(f"weights={dict(weights)}: none may be negative and one must be positive")
        self.weights = {names[name]: weight for name, weight in weights.items() if weight}
        self.lengths = {denoiser: text_length(denoiser, special, max_length) for denoiser in self.weights}
        self.texts, self.tokenizer, self.special = texts, tokenizer, special
        self.num_examples, self.packed, self.seed = num_examples, packed, seed
        self.skip_log = skip_log if skip_log is not None else SkipLog()
        self.reserved = frozenset(special.sentinels)

    def __len__(self) -> int:
        return self.num_examples

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`input_ids`, `labels` (lists of ids) and `denoiser` (its name)."""
        if not 0 <= index < self.num_examples:
            raise IndexError(f"example {index} of {self.num_examples}")
        rng = random.Random(f"{self.seed}-{index}")
        denoiser = rng.choices(list(self.weights), list(self.weights.values()))[0]
        take = self.packed_stretch if self.packed else self.stretch
        tokens = take(index % len(self.texts), self.lengths[denoiser], rng)
        inputs, labels = corrupt(tokens, denoiser, self.special, rng)
        return {"input_ids": inputs, "labels": labels, "denoiser": denoiser.name}

    def stretch(self, position: int, length: int, rng: random.Random) -> list[int]:
        """At most `length` tokens of text `position`, or of the next one with two tokens.

        Raises:
            ValueError: no text has two tokens.
        """
        for step in range(len(self.texts)):
            own = self.tokens(position + step)
            if len(own) >= 2:
                begin = rng.randrange(max(0, len(own) - length) + 1)
                return own[begin : begin + length]
        raise ValueError(f"{self.texts.name}: no text has two tokens")

    def packed_stretch(self, position: int, length: int, rng: random.Random) -> list[int]:
        """Exactly `length` tokens from a random token of text `position` on; the first text follows the last.

        Raises:
            ValueError: all texts are empty.
        """
        tokens: list[int] = []
        empty = 0
        while len(tokens) < length:
            own, position = self.tokens(position), position + 1
            if not own:
                empty += 1
                if empty == len(self.texts):
                    raise ValueError(f"{self.texts.name}: no text has any token")
                continue
            tokens += [self.special.end, *own] if tokens else own[rng.randrange(len(own)) :]
            empty = 0
        return tokens[:length]

    def tokens(self, position: int) -> list[int]:
        """Token ids of a text (modulo the number of texts) without sentinels; empty if it cannot be read."""
        try:
            text = self.texts[position % len(self.texts)]["text"]
        except BadRecord as bad:
            self.skip_log.add(bad)
            return []
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return [token for token in ids if token not in self.reserved]


def pad_collate(items: Sequence[Mapping[str, Any]], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Items of [`SpanCorruptionDataset`] as a batch: `input_ids`, `attention_mask`, `labels`, int[B, longest]."""

    def padded(key: str, value: int) -> torch.Tensor:
        rows = [torch.tensor(item[key]) for item in items]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)

    ids, labels = padded("input_ids", pad_token_id), padded("labels", IGNORE_INDEX)
    lengths = torch.tensor([len(item["input_ids"]) for item in items])
    mask = (torch.arange(ids.shape[1])[None] < lengths[:, None]).long()
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}
