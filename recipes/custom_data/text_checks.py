"""Control tokens of the models in texts of custom data."""

import re
from collections.abc import Iterator
from itertools import chain

from openpali.data.custom.dataset import CustomDataset
from openpali.data.custom.rows import REGION_KINDS, Row, texts
from openpali.modeling.control_tokens import found_controls
from openpali.recipes.custom_data.finding import SHOWN, Finding, place

# the tokens of a box, and the share of answers that have them from which they are no accident
_BOX, HALF = re.compile(r"(?:<loc[0-9]{4}>\s*){4}"), 0.5


def control_tokens(data: CustomDataset) -> Iterator[Finding]:
    """Control tokens in captions, questions, answers and class names, which the models read as letters."""
    boxes = [row for row in chain(*data.good.values()) if any(map(_BOX.search, texts(row.answers)))]
    if len(boxes) > HALF * sum(map(len, data.good.values())):
        text = f"{len(boxes)} answers hold location tokens, the first {place(boxes[0])}, which --kind {data.spec.kind}"
        remedy = "reads as letters. Take --kind detect, or leave --kind out to train on the texts as they stand."
        yield Finding("error", "control_tokens", f"{text} {remedy}", len(boxes))
        return
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
