"""Control tokens of the models in texts of custom data."""

from collections.abc import Iterator
from itertools import chain

from openpali.data.custom.dataset import CustomDataset
from openpali.data.custom.rows import REGION_KINDS, Row, texts
from openpali.modeling.control_tokens import found_controls
from openpali.recipes.custom_data.finding import SHOWN, Finding, place


def control_tokens(data: CustomDataset) -> Iterator[Finding]:
    """Control tokens in captions, questions, answers and class names, which the models read as letters."""
    places = [f"{place(row)}: {', '.join(tokens)}" for row, tokens in rows_with_controls(data)]
    if places:
        text = f"{len(places)} records hold what looks like a control token of the models, the first {places[0]}"
        remedy = "The model reads it as letters. Remove it if that is not intended."
        yield Finding("warning", "control_tokens", f"{text}. {remedy}", len(places), tuple(places[:SHOWN]))


def rows_with_controls(data: CustomDataset) -> Iterator[tuple[Row, list[str]]]:
    """Good rows with control tokens, and the tokens."""
    for row in chain(*data.good.values()):
        regions = data.spec.kind in REGION_KINDS
        contents = data.labels(row) if regions else [*texts(row.question), *texts(row.answers)]
        if tokens := list(dict.fromkeys(found_controls(contents, places=True))):
            yield row, tokens
