"""The report on an image encoder: one HTML page with scores, a table by language, the heat map, and what is found."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from openpali.data.sources import Source, credits_of
from openpali.eval.image_encoders.gallery import galleries
from openpali.eval.image_encoders.records import Collected, StreamedSource
from openpali.eval.image_encoders.scores import Measured, percent, summary_rows
from openpali.eval.image_encoders.tables import column_title, columns_of, format_cell
from openpali.eval.scoring.recall import RetrievalTable


def write_encoder_report(
    folder: str | Path,
    measured: Measured,
    rows: Sequence[dict[str, Any]],
    found: Collected,
    source: Source | StreamedSource,
) -> Path:
    """Write report.html; heat_map.png of the same folder is put into it.

    Args:
        folder: where to write.
        measured: scores and embeddings.
        rows: of `language_rows`.
        found: texts and places of the images.
        source: to read the images that are shown again, and their credits.

    Returns:
        The path written.
    """
    folder = Path(folder)
    queries, texts = galleries(measured, found, source) if measured.retrieval else ([], [])
    heat_map = folder / "heat_map.png"
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(percent=percent, column_title=column_title)
    page = environment.get_template("encoders.html.j2").render(
        measured=measured,
        summary=summary_rows(measured),
        columns=columns_of(rows),
        table=[[(key, format_cell(key, row.get(key)), row.get(key)) for key in columns_of(rows)] for row in rows],
        shared=shared_note(measured.retrieval),
        heat_map=base64.b64encode(heat_map.read_bytes()).decode() if measured.retrieval else None,
        image_queries=queries,
        text_queries=texts,
        credits=credits_of(source),
    )
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def shared_note(table: RetrievalTable | None) -> str:
    """What to know about texts that several images have; nothing where there are none."""
    if table is None or min(table.ceiling.values()) == 1:
        return ""
    return (
        "ImageFolder share some texts word for word, and only a text's own image counts: that sets the limits named"
        " above. Below, a text is right for every image that has it."
    )
