"""Texts of custom data that look like what only a program writes."""

from collections.abc import Iterator
from itertools import chain

from openpali.data.custom.dataset import CustomDataset
from openpali.data.custom.rows import REGION_KINDS, Row, texts
from openpali.modeling.control_tokens import found_controls
from openpali.recipes.custom_data.record_checks import SHOWN, Finding


def control_tokens(found: CustomDataset) -> Iterator[Finding]:
    """Control tokens of the models in captions, questions, answers and names of classes: they are read as letters."""
    places = [f"{row.file}:{row.record}: {', '.join(tokens)}" for row, tokens in rows_with_controls(found)]
    if places:
        text = f"{len(places)} records hold what looks like a control token of the models, the first {places[0]}"
        remedy = "It is read as letters like any others; take it out where it is not meant to be read."
        yield Finding("warning", "control_tokens", f"{text}. {remedy}", len(places), tuple(places[:SHOWN]))


def rows_with_controls(found: CustomDataset) -> Iterator[tuple[Row, list[str]]]:
    """Good rows that hold some, and which."""
    for row in chain(*found.good.values()):
        said = found.labels(row) if found.spec.kind in REGION_KINDS else [*texts(row.question), *texts(row.answers)]
        if tokens := list(dict.fromkeys(found_controls(said, places=True))):
            yield row, tokens
