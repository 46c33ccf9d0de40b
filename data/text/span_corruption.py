"""UL2's denoisers (arXiv 2205.05131, section 3): spans of a text move from the input to the target.

    text     the cat sat on the mat and slept
    R, X     [NLU] the <0> on the mat <1> slept </s>   ->   <0> cat sat <1> and </s>
    S        [S2S] the cat sat on the mat </s>         ->   and slept </s>

R removes few short spans, X many or long ones, and S the end, which is prefix language modelling. The numbers of
removed tokens and of spans are exact up to rounding; their places are drawn as in T5. Unlike T5, a text may end with
kept tokens, since a single long span would otherwise always be the end of the text, as in S.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

PREFIXES = {"R": "[NLU]", "X": "[NLG]", "S": "[S2S]"}
SENTINEL = "<extra_id_{}>"


@dataclass(frozen=True)
class Denoiser:
    """One way of corrupting a text.

    Attributes:
        kind: R, X or S.
        rate: share of removed tokens.
        mean_span: average tokens of a span; None removes the end, without a sentinel.
    """

    kind: str
    rate: float
    mean_span: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in PREFIXES or not 0 < self.rate < 1 or (self.mean_span is not None and self.mean_span < 1):
            raise ValueError(f"{self}: kind is one of {', '.join(PREFIXES)}, rate in (0, 1), mean_span at least 1")

    @property
    def name(self) -> str:
        """`R-3-15`: kind, mean span, percent removed."""
        span = "" if self.mean_span is None else f"-{self.mean_span:g}"
        return f"{self.kind}{span}-{100 * self.rate:g}"

    def counts(self, length: int) -> tuple[int, int]:
        """Number of removed tokens of a text of `length` tokens (at least 2), and of their spans."""
        if length < 2:
            raise ValueError(f"a text of {length} token(s) cannot be corrupted: it takes at least 2")
        noise = min(max(round(length * self.rate), 1), length - 1)
        spans = 1 if self.mean_span is None else max(1, round(noise / self.mean_span))
        # at least one token stays between two spans, and before the first
        return noise, min(spans, noise, length - noise)

    def input_length(self, length: int) -> int:
        """Tokens of the input with its end token, without the prefix."""
        noise, spans = self.counts(length)
        return length - noise + (0 if self.mean_span is None else spans) + 1

    def target_length(self, length: int) -> int:
        """Tokens of the target with its end token."""
        noise, spans = self.counts(length)
        return noise + (0 if self.mean_span is None else spans) + 1

    def raw_length(self, max_length: int) -> int:
        """Tokens of the longest text whose input, without the prefix, is at most `max_length`.

        Raises:
            ValueError: no text fits.
        """
        if self.input_length(2) > max_length:
            raise ValueError(f"max_length leaves {max_length} tokens for the input of {self.name}, which is too few")
        low, high = 2, 2 * max_length
        while self.input_length(high) <= max_length:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.input_length(middle) <= max_length else (low, middle)
        return low


UL2 = (
    Denoiser("R", 0.15, 3),
    Denoiser("R", 0.15, 8),
    Denoiser("X", 0.5, 3),
    Denoiser("X", 0.5, 8),
    Denoiser("X", 0.15, 64),
    Denoiser("X", 0.5, 64),
    Denoiser("S", 0.25),
)
"""The seven denoisers of the paper, which mixes them uniformly."""


@dataclass(frozen=True)
class SpecialTokens:
    """Token ids that denoising adds to a text.

    Attributes:
        sentinels: one for the first span, one for the second, ...
        prefixes: of each kind; empty without one.
        end: ends inputs and targets.
    """

    sentinels: tuple[int, ...]
    prefixes: Mapping[str, tuple[int, ...]]
    end: int


def special_tokens(
    tokenizer: Any,
    prefixes: Mapping[str, str] = PREFIXES,
    sentinel: str = SENTINEL,
    last_ids: int = 0,
) -> SpecialTokens:
    """Find a tokenizer's sentinels, and the ids of the prefixes.

    Args:
        tokenizer: of Transformers.
        prefixes: text of each kind.
        sentinel: pattern of the sentinels' names; T5's and UMT5's are `<extra_id_{}>`, Gemma's free ones `<unused{}>`.
        last_ids: number of last ids to use if it has no sentinels, the last one first.

    Raises:
        ValueError: it has no sentinels and `last_ids` gives none, or it has no end token.
    """
    vocabulary = tokenizer.get_vocab()
    found = []
    while sentinel.format(len(found)) in vocabulary:
        found.append(vocabulary[sentinel.format(len(found))])
    if not found and last_ids:
        found = [len(tokenizer) - 1 - i for i in range(last_ids)]
    if not found:
        raise ValueError(
            f"the tokenizer has no sentinels: no token {sentinel.format(0)!r}. Name them, add some, or use some of"
            " its last ids for them"
        )
    if tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no end token, which closes inputs and targets")
    ids = {kind: tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) for kind, text in prefixes.items()}
    return SpecialTokens(tuple(found), ids, tokenizer.eos_token_id)


def text_length(denoiser: Denoiser, special: SpecialTokens, max_length: int) -> int:
    """Tokens of the longest text whose input fits `max_length` with its prefix and its end token.

    Raises:
        ValueError: the text needs more sentinels than there are, or `max_length` is too small.
    """
    length = denoiser.raw_length(max_length - len(special.prefixes.get(denoiser.kind, ())))
    check_sentinels(denoiser, length, special)
    return length


def check_sentinels(denoiser: Denoiser, length: int, special: SpecialTokens) -> None:
    """Raise ValueError if a text of `length` tokens has more spans than there are sentinels."""
    spans = 0 if denoiser.mean_span is None else denoiser.counts(length)[1]
    if spans > len(special.sentinels):
        raise ValueError(
            f"{denoiser.name} takes {spans} spans out of a text of {length} tokens, and there are"
            f" {len(special.sentinels)} sentinels: lower max_length or add sentinels"
        )


def segments(total: int, parts: int, rng: random.Random) -> list[int]:
    """Sizes of `parts` non-empty parts of `total`, uniformly over all such partitions."""
    cuts = sorted(rng.sample(range(1, total), parts - 1))
    return [end - start for start, end in zip([0, *cuts], [*cuts, total])]


def corrupt(
    tokens: Sequence[int], denoiser: Denoiser, special: SpecialTokens, rng: random.Random
) -> tuple[list[int], list[int]]:
    """Input and target of a text, each with the end token.

    Args:
        tokens: of the text, without an end token.
        denoiser: rate and length of the spans.
        special: token ids to add.
        rng: of the places of the spans.

    Raises:
        ValueError: fewer than 2 tokens, or more spans than sentinels.
    """
    noise, spans = denoiser.counts(len(tokens))
    prefix = special.prefixes.get(denoiser.kind, ())
    kept = len(tokens) - noise
    if denoiser.mean_span is None:
        return [*prefix, *tokens[:kept], special.end], [*tokens[kept:], special.end]
    check_sentinels(denoiser, len(tokens), special)
    # only the part after the last span may be empty
    stay = segments(kept + 1, spans + 1, rng)
    starts = [0, *accumulate(size for pair in zip(stay, segments(noise, spans, rng)) for size in pair)]
    inputs, target = list(prefix), []
    for i in range(spans):
        begin, middle, end = starts[2 * i : 2 * i + 3]
        inputs += [*tokens[begin:middle], special.sentinels[i]]
        target += [special.sentinels[i], *tokens[middle:end]]
    return [*inputs, *tokens[starts[-1] :], special.end], [*target, special.end]


def reassemble(inputs: Sequence[int], target: Sequence[int], special: SpecialTokens) -> list[int]:
    """The inverse of `corrupt`: the tokens of the text.

    Raises:
        ValueError: a sentinel of the input is missing in the target, or comes there in another order.
    """
    heads = sorted(special.prefixes.values(), key=len, reverse=True)
    prefix = next((head for head in heads if head and tuple(inputs[: len(head)]) == head), ())
    body, spans = without_end(inputs, special.end)[len(prefix) :], without_end(target, special.end)
    used = [token for token in body if token in special.sentinels]
    if not used:
        return body + spans
    at = [i for i, token in enumerate(spans) if token in special.sentinels]
    if [spans[i] for i in at] != used or at[0] != 0:
        raise ValueError(f"the input has the sentinels {used}, the target {[spans[i] for i in at]}")
    filled = {spans[i]: spans[i + 1 : end] for i, end in zip(at, [*at[1:], len(spans)])}
    return [piece for token in body for piece in filled.get(token, [token])]


def without_end(tokens: Sequence[int], end: int) -> list[int]:
    """Tokens without a final end token."""
    return list(tokens[:-1]) if tokens and tokens[-1] == end else list(tokens)
