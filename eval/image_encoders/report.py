"""The report on an image encoder: one HTML page with scores, table by language, heat map and retrieval examples."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from openpali.data.sources import Source, credits_of
from openpali.eval.image_encoders.gallery import galleries
from openpali.eval.image_encoders.records import EncoderData, StreamedSource
from openpali.eval.image_encoders.scores import EncoderScores, percent, summary_rows
from openpali.eval.image_encoders.tables import column_title, columns_of, format_cell
from openpali.eval.scoring.recall import RetrievalTable


def write_encoder_report(
    folder: str | Path,
    scores: EncoderScores,
    rows: Sequence[dict[str, Any]],
    data: EncoderData,
    source: Source | StreamedSource,
) -> Path:
    """Write report.html, with heat_map.png of the same folder in it.

    Args:
        folder: where to write.
        scores: scores and embeddings.
        rows: of `language_rows`.
        data: texts and record indices of the images.
        source: of the images on the page and their credits.

    Returns:
        The path written.
    """
    folder = Path(folder)
    queries, texts = galleries(scores, data, source) if scores.retrieval else ([], [])
    heat_map = folder / "heat_map.png"
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(percent=percent, column_title=column_title)
    page = environment.get_template("report.html.j2").render(
        scores=scores,
        summary=summary_rows(scores),
        columns=columns_of(rows),
        table=[[(key, format_cell(key, row.get(key)), row.get(key)) for key in columns_of(rows)] for row in rows],
        shared=shared_note(scores.retrieval),
        heat_map=base64.b64encode(heat_map.read_bytes()).decode() if scores.retrieval else None,
        image_queries=queries,
        text_queries=texts,
        credits=credits_of(source),
    )
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def shared_note(table: RetrievalTable | None) -> str:
    """A note on texts that several images share; empty where there are none."""
    if table is None or min(table.ceiling.values()) == 1:
        return ""
    return (
        "Images share some texts word for word, and only a text's own image counts: that sets the upper limits above."
        " Below, a text is a match for every image that has it."
    )
