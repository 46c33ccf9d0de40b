"""All scores of an image encoder, and their summary."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from openpali.eval.image_encoders.linear_probe import ProbeResult
from openpali.eval.image_encoders.patch_probe import PatchResult
from openpali.eval.image_encoders.zero_shot import ZeroShotTable
from openpali.eval.scoring.recall import DIRECTION_NAMES, DIRECTIONS, RetrievalTable, recall_key


@dataclass(frozen=True)
class Probe:
    """Linear probe of one encoder: its name, the pooling and the width of the features, and the accuracies."""

    name: str
    pooling: str
    width: int
    result: ProbeResult


@dataclass(frozen=True)
class PatchProbe:
    """Linear probe of one encoder's patch tokens: its name, the width of a token, and the scores."""

    name: str
    width: int
    result: PatchResult


@dataclass
class EncoderScores:
    """All scores of an evaluation of image encoders; None or empty where not measured, and `notes` say why.

    Attributes:
        title: of the report.
        settings: for the head of the report.
        retrieval: of the first encoder.
        zero_shot: likewise.
        probes: of all encoders.
        patches: likewise.
        notes: why a task was not measured.
        image_embeds: float[n, D] of the first encoder, normalised.
        text_embeds: float[m, D], likewise.
    """

    title: str
    settings: dict[str, str | int]
    retrieval: RetrievalTable | None = None
    zero_shot: ZeroShotTable | None = None
    probes: list[Probe] = field(default_factory=list)
    patches: list[PatchProbe] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    image_embeds: torch.Tensor = field(default_factory=lambda: torch.empty(0, 0))
    text_embeds: torch.Tensor = field(default_factory=lambda: torch.empty(0, 0))

    def as_dict(self) -> dict[str, Any]:
        """Scores as JSON values."""
        probes = {probe.name: {"pooling": probe.pooling, **probe.result.as_dict()} for probe in self.probes}
        return {
            "retrieval": self.retrieval and self.retrieval.as_dict(),
            "zero_shot": self.zero_shot and self.zero_shot.as_dict(),
            "probe": probes or None,
            "patches": {probe.name: probe.result.as_dict() for probe in self.patches} or None,
            "notes": self.notes,
        }

    def summary(self) -> list[str]:
        """The main scores, one per line."""
        lines = [
            f"{row['name']}: "
            + ", ".join(f"{key} {value}" for key, value in row["values"])
            + f" (chance {row['chance']})"
            for row in summary_rows(self)
        ]
        for probe in self.probes:
            result = probe.result
            shots = f"{result.shots} shots, {result.classes} classes, {probe.pooling} pooling"
            lines.append(f"probe of {probe.name}: {percent(result.mean)} ± {100 * result.std:.1f} ({shots})")
        for probe in self.patches:
            result = probe.result
            scores = f"IoU {percent(result.iou)} (chance {percent(result.chance_iou)})"
            scores += f", accuracy {percent(result.accuracy)} (chance {percent(result.chance)})"
            lines.append(f"patches of {probe.name}: {scores}, {result.classes} classes")
        return lines + self.notes


def percent(value: float) -> str:
    """A share in per cent, such as 12.3 %."""
    return f"{100 * value:.1f} %"


def summary_rows(scores: EncoderScores) -> list[dict[str, Any]]:
    """Retrieval in both directions and zero-shot classification: values by name, chance, and the ratio to chance."""
    rows = []
    if scores.retrieval:
        table = scores.retrieval
        for direction in DIRECTIONS:
            keys = [(f"R@{k}", recall_key(direction, k)) for k in table.ks]
            name = f"{DIRECTION_NAMES[direction]} retrieval"
            rows.append(summary_row(name, keys, table.mean, table.chance) | ceiling_entry(table.ceiling[keys[0][1]]))
    if scores.zero_shot:
        keys = [(key.replace("top_", "top-"), key) for key in scores.zero_shot.mean]
        rows.append(summary_row("zero-shot", keys, scores.zero_shot.mean, scores.zero_shot.chance))
    return rows


def summary_row(
    name: str, keys: Sequence[tuple[str, str]], mean: Mapping[str, float], chance: Mapping[str, float]
) -> dict[str, Any]:
    """One row of the summary; its first key has the ratio of score to chance."""
    first = keys[0][1]
    times = mean[first] / chance[first]
    return {
        "name": name,
        "values": [(title, percent(mean[key])) for title, key in keys],
        "share": mean[first],
        "chance_share": chance[first],
        "chance": f"{100 * chance[first]:.3g} %",
        "times": f"{times:.0f}" if times >= 10 else f"{times:.1f}",
    }


def ceiling_entry(ceiling: float) -> dict[str, str]:
    """The highest possible score, where it is less than 1."""
    return {"limit": percent(ceiling)} if ceiling < 1 else {}
