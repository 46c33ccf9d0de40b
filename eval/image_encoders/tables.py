"""Tables of an encoder's scores, one row per language, as CSV and Markdown."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openpali.eval.image_encoders.zero_shot import ZeroShotTable
from openpali.eval.prompts.language_names import language_name
from openpali.eval.scoring.recall import RetrievalTable

SHORT = {"image_to_text_recall_at": "I→T R@", "text_to_image_recall_at": "T→I R@", "zero_shot_top": "zero-shot top-"}
COUNTS = ("images", "texts", "classes")


def language_rows(retrieval: RetrievalTable | None, zero_shot: ZeroShotTable | None) -> list[dict[str, Any]]:
    """A row for each language, then mean and chance: `language` and scores, None where not measured."""
    names = dict.fromkeys([*(retrieval.languages if retrieval else ()), *(zero_shot.languages if zero_shot else ())])
    rows: list[dict[str, Any]] = [{"language": name} for name in sorted(names)]
    mean: dict[str, Any] = {"language": "mean"}
    chance: dict[str, Any] = {"language": "chance"}
    if retrieval:
        for row in rows:
            own = retrieval.languages.get(row["language"])
            row |= {"images": own and own.images, "texts": own and own.texts}
            row |= {key: own and own.recalls[key] for key in retrieval.mean}
        mean |= retrieval.mean
        chance |= retrieval.chance
    if zero_shot:
        for row in rows:
            own = zero_shot.languages.get(row["language"])
            row |= {"classes": zero_shot.classes.get(row["language"])}
            row |= {f"zero_shot_{key}": own and own[key] for key in zero_shot.mean}
        mean |= {f"zero_shot_{key}": value for key, value in zero_shot.mean.items()}
        chance |= {f"zero_shot_{key}": value for key, value in zero_shot.chance.items()}
    return [*rows, mean, chance]


def columns_of(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Keys of all rows, in order."""
    return list(dict.fromkeys(key for row in rows for key in row))


def column_title(key: str) -> str:
    """A short heading: "I→T R@5" for image_to_text_recall_at_5."""
    start, _, k = key.rpartition("_")
    return f"{SHORT[start]}{k}" if start in SHORT else key


def format_cell(key: str, value: Any) -> str:
    """A value as text: shares in per cent."""
    if value is None:
        return ""
    if key == "language":
        return language_name(value)
    return f"{value:,}" if key in COUNTS else f"{100 * value:.1f}"


def write_tables(rows: Sequence[dict[str, Any]], folder: str | Path) -> None:
    """Write per_language.csv, shares in [0, 1], and per_language.md, in per cent."""
    folder, columns = Path(folder), columns_of(rows)
    with (folder / "per_language.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    lines = [[column_title(key) for key in columns], ["---", *["---:"] * (len(columns) - 1)]]
    lines += [[format_cell(key, row.get(key)) for key in columns] for row in rows]
    text = "".join("| " + " | ".join(line) + " |\n" for line in lines)
    (folder / "per_language.md").write_text(text, encoding="utf-8")
