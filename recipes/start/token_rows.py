"""Whether a model's location and segmentation tokens are trained: their rows in the embedding table and the LM head.

New rows start in one of three ways, and rows that no training touched can be told by it:

- around the mean of the old rows (`resize_token_embeddings`): rows that still lie on one point are untrained, one by
  one;
- as sines of their coordinates (`ordered_locations`): rows that still are sines are untrained, one by one;
- at random, each value independently: rows are untrained while they have no common structure, that is no direction in
  which they vary more than chance allows, no lengths that differ more, and no other mean than rows that no text has.
  This judges all rows together.

Weight decay, and a push that is the same for all unused rows, as the loss gives in an LM head, change none of the
three.

Shapes: `N` tokens, `D` width, `V` rows of a table.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from openpali.modeling.location_tokens import LOCATION_BINS
from openpali.modeling.processing_tokenizer import IMAGE_TOKEN, LOCATION_TOKENS, SEGMENTATION_TOKENS

State = Literal["missing", "untrained", "trained", "unknown"]
TOKENS = {"location": LOCATION_TOKENS, "segmentation": SEGMENTATION_TOKENS}
# rows drawn around a mean have 3e-5 of the spread of the old ones
ONE_POINT = 1e-4
# of sines, whose scale is fitted
SAME_SINES = 1e-3
# a smaller share of changed rows counts as untrained: T5 has a few spare rows, which differ from new ones
FEW = 0.05
# standard deviations from what chance gives
SURE = 10.0
SAMPLE = 2048
LEAST = 8


@dataclass(frozen=True)
class TokenRows:
    """What is known of the tokens of one kind.

    Attributes:
        tokens: of this kind in the tokenizer.
        state: missing unless all are there; untrained if the rows of some table still are as they began, but for an
            embedding that only looks so beside a trained head; unknown where no table could be read.
        changed: rows that are not as they began, in the table with the fewest; None where rows are judged together.
        reason: of the state, in words.
    """

    tokens: int
    state: State
    changed: int | None
    reason: str


@dataclass(frozen=True)
class Verdict:
    """Of the rows of one table: whether they are trained, how many have changed if that is known, and why."""

    trained: bool
    changed: int | None
    reason: str


def token_rows(tokenizer: Any, tables: Mapping[str, torch.Tensor]) -> dict[str, TokenRows]:
    """Judge location and segmentation tokens.

    Args:
        tokenizer: of the model.
        tables: float[V, D] by name, as of `tables_of`; those that another process holds are left out.
    """
    vocabulary = tokenizer.get_vocab()
    tables = {name: table for name, table in tables.items() if table.numel() and not table.is_meta}
    special = {vocabulary.get(token) for token in [*LOCATION_TOKENS, *SEGMENTATION_TOKENS, IMAGE_TOKEN]}
    words = sorted(set(vocabulary.values()) - special)
    words = words[:: max(1, len(words) // SAMPLE)]
    last, found = max(vocabulary.values()), {}
    for kind, tokens in TOKENS.items():
        ids = [vocabulary[token] for token in tokens if token in vocabulary]
        if len(ids) < len(tokens):
            missing = f"the tokenizer has {len(ids) or 'none'} of {len(tokens):,}"
            found[kind] = TokenRows(len(ids), "missing", None, missing)
            continue
        verdicts = {}
        for name, table in tables.items():
            # no text has a token behind the last one, and texts without locations have no segments
            unused = list(range(last + 1, min(len(table), last + SAMPLE)))
            if kind == "location":
                unused += [vocabulary[token] for token in SEGMENTATION_TOKENS if token in vocabulary]
            verdicts[name] = judge(*(rows_of(table, rows) for rows in (ids, words, unused)))
        found[kind] = summary(len(ids), verdicts)
    return found


def table_modules(model: Any) -> dict[str, Any]:
    """The modules that an answer's tokens are read from and written with, once where they share their table."""
    reader = model.get_decoder() if model.config.is_encoder_decoder else model
    table, head = reader.get_input_embeddings(), model.get_output_embeddings()
    return {"embedding": table} if head.weight is table.weight else {"embedding": table, "head": head}


def tables_of(model: Any) -> dict[str, torch.Tensor]:
    """Their tables; float[V, D]."""
    return {name: module.weight for name, module in table_modules(model).items()}


def rows_of(table: torch.Tensor, ids: Sequence[int]) -> torch.Tensor:
    """Rows of a table without those beyond its end; float32[N, D] on the CPU."""
    inside = torch.tensor([i for i in ids if i < table.shape[0]], dtype=torch.long, device=table.device)
    return table.detach()[inside].float().cpu()


def summary(tokens: int, verdicts: Mapping[str, Verdict]) -> TokenRows:
    """The tokens of one kind, which are trained if they are in every table."""
    if not verdicts:
        return TokenRows(tokens, "unknown", None, "its rows are not here")
    read, written = verdicts.get("embedding"), verdicts.get("head")
    if read and written and written.trained and not read.trained and read.changed is None:
        # a new T5's embeddings are large, and still look random when training has moved them; every step of a training
        # moves the head, which is small
        verdicts = {"head": written}
    name, worst = min(verdicts.items(), key=lambda item: (item[1].trained, item[1].changed or 0))
    where = "" if len(verdicts) == 1 else f" ({name})"
    return TokenRows(tokens, "trained" if worst.trained else "untrained", worst.changed, worst.reason + where)


def judge(rows: torch.Tensor, words: torch.Tensor, unused: torch.Tensor) -> Verdict:
    """Whether rows of one table are trained.

    Args:
        rows: float[N, D], of the tokens.
        words: float[M, D], of other tokens.
        unused: float[U, D], of tokens that are in no text, or in none without the tokens.
    """
    rounding = rounding_of(rows)
    for still, initial in ((on_one_point(rows, words, rounding), "the mean"), (are_sines(rows, rounding), "sines")):
        changed = len(rows) - int(still.sum())
        if len(rows) - changed > FEW * len(rows):
            trained = changed >= FEW * len(rows)
            return Verdict(trained, changed, f"{changed:,} of {len(rows):,} rows have left {initial} where they began")
    if excess := structure(rows) or other_mean(rows, unused):
        return Verdict(True, None, f"rows {excess}")
    return Verdict(False, None, "rows are random, independent values")


def rounding_of(rows: torch.Tensor) -> float:
    """The largest relative error of the type that values were once rounded to: of bfloat16 or float16, else 0."""
    for kind in (torch.bfloat16, torch.float16):
        if torch.equal(rows.to(kind).float(), rows):
            return torch.finfo(kind).eps
    return 0.0


def on_one_point(rows: torch.Tensor, words: torch.Tensor, rounding: float) -> torch.Tensor:
    """Which rows lie where most of them lie, measured by the spread of the words; bool[N]."""
    point = rows.median(dim=0).values
    spread = (words - words.mean(dim=0)).norm(dim=1).square().mean().sqrt()
    return (rows - point).norm(dim=1) <= ONE_POINT * spread + rounding * point.norm()


def location_sines(width: int) -> torch.Tensor:
    """Rows of ordered location tokens, of unit variance, near ones for near coordinates; float[1024, width].

    The width is even.
    """
    rates = math.pi * 2.0 ** torch.linspace(-1, 4, width // 2)
    angles = torch.linspace(0, 1, LOCATION_BINS).unsqueeze(1) * rates
    return math.sqrt(2) * torch.cat([angles.sin(), angles.cos()], dim=1)


def are_sines(rows: torch.Tensor, rounding: float) -> torch.Tensor:
    """Which rows are `location_sines` on some scale, perhaps all moved alike; bool[N]."""
    if len(rows) != LOCATION_BINS or rows.shape[1] % 2:
        return torch.zeros(len(rows), dtype=torch.bool)
    sines = location_sines(rows.shape[1])
    # differences of neighbours do not see a common move
    steps, wanted = rows.diff(dim=0), sines.diff(dim=0)
    scale = ((steps * wanted).sum(dim=1) / wanted.square().sum(dim=1)).median()
    rest = rows - scale * sines
    rest = rest - rest.median(dim=0).values
    return rest.norm(dim=1) <= (SAME_SINES + rounding) * (scale * sines).norm(dim=1)


def structure(rows: torch.Tensor) -> str:
    """What independent normal values of one variance would not show; empty without such a thing.

    The largest eigenvalue of their covariance is compared with Tracy and Widom's law (Johnstone 2001, theorem 1.1).
    """
    count, width = rows.shape
    rows = rows.double() - rows.double().mean(dim=0)
    variance = float(rows.square().mean()) * count / (count - 1)
    if variance == 0.0:
        return ""
    product = rows @ rows.T if count < width else rows.T @ rows
    largest = float(torch.linalg.eigvalsh(product)[-1]) / variance
    sides = math.sqrt(count - 1), math.sqrt(width)
    centre, scale = sum(sides) ** 2, sum(sides) * sum(1 / side for side in sides) ** (1 / 3)
    if largest > centre + SURE * scale:
        return "vary together"
    lengths = rows.square().sum(dim=1) / variance
    # chi-square: its variance is 2 D, and an estimate from N values has a relative error of sqrt((2 + 12 / D) / N)
    excess = float(lengths.var()) / (2 * width) - 1
    return "differ in length" if excess > SURE * math.sqrt((2 + 12 / width) / count) else ""


def other_mean(rows: torch.Tensor, unused: torch.Tensor) -> str:
    """Whether the means of two groups of independent normal rows differ by more than chance; empty if they do not."""
    if len(unused) < LEAST:
        return ""
    variance = (rows.var(dim=0).mean() / len(rows) + unused.var(dim=0).mean() / len(unused)).item()
    distance = float((rows.mean(dim=0) - unused.mean(dim=0)).square().sum())
    # chi-square with D degrees of freedom
    width = rows.shape[1]
    return "have another mean than unused rows" if distance > variance * (width + SURE * math.sqrt(2 * width)) else ""
