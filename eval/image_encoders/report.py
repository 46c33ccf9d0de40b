"""The report on an image encoder: one HTML page with scores, table by language, heat map and retrieval examples."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openpali.data.sources import Source, credits_of
from openpali.eval.image_encoders.gallery import galleries
from openpali.eval.image_encoders.records import EncoderData, StreamedSource
from openpali.eval.image_encoders.scores import EncoderScores, percent, summary_rows
from openpali.eval.image_encoders.tables import column_title, columns_of, format_cell
from openpali.eval.report.page import write_page
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
    return write_page(
        folder / "report.html",
        "image_encoders/report.html.j2",
        title=scores.title,
        settings=scores.settings,
        scores=scores,
        summary=summary_rows(scores),
        columns=[column_title(key) for key in columns_of(rows)],
        table=[[(format_cell(key, row.get(key)), row.get(key)) for key in columns_of(rows)] for row in rows],
        shared=shared_note(scores.retrieval),
        heat_map=base64.b64encode(heat_map.read_bytes()).decode() if scores.retrieval else None,
        image_queries=queries,
        text_queries=texts,
        credits=credits_of(source),
        percent=percent,
    )


def shared_note(table: RetrievalTable | None) -> str:
    """A note on texts that several images share; empty where there are none."""
    if table is None or min(table.ceiling.values()) == 1:
        return ""
    return (
        "Images share some texts word for word, and only a text's own image counts: that sets the upper limits above."
        " Below, a text is a match for every image that has it."
    )
