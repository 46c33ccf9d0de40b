"""JSON lines of PaliGemma's detection (as of Roboflow): `prefix` names the classes, `suffix` has location tokens."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openpali.data.custom.readers import Folder, RawData, one_image
from openpali.data.custom.rows import Row, RowObject, UnreadableRecord, add_problem
from openpali.data.files.annotations import BadValue
from openpali.data.records import BadRecord
from openpali.modeling.location_tokens import parse_detections

_LOOKED_AT = 50
_CODES = re.compile(r"<seg[0-9]{3}>")
_DETECT = ("detect ", "segment ")
_AS_TEXT = "Leave --kind out to train on the texts as they stand."


def has_locations(table: Sequence[tuple[str, Any]]) -> bool:
    """Whether the first records of a table are prefixes and suffixes that detect."""
    rows = [row for _, row in table[:_LOOKED_AT] if isinstance(row, dict)]
    return any("suffix" in row and str(row.get("prefix")).strip().startswith(_DETECT) for row in rows)


def read_locations(path: Path, table: Sequence[tuple[str, Any]], image_root: Path | None, kind: str) -> RawData:
    """Rows of lines with `image`, `prefix` and `suffix`, those of one image joined.

    An image that is not asked about every class cannot be used: what is on it is not known.

    Raises:
        BadRecord: masks are wanted, which are segmentation tokens here.
    """
    if kind == "segment":
        raise BadRecord(str(path), "all", "its masks are tokens, which are not read back", _AS_TEXT)
    names = [row.get("image") for _, row in table if isinstance(row, dict)]
    folder, read = Folder(path, image_root, names), RawData([], layout="JSON lines with location tokens")
    rows: dict[str, Row] = {}
    asked: dict[str, set[str]] = {}
    seen: set[tuple[str, str, str]] = set()
    for record, line in table:
        if not isinstance(line, dict):
            error = line if isinstance(line, BadValue) else BadValue("it is not a JSON object", "Fix the line.")
            read.rows.append(Row(str(path), record, UnreadableRecord(error.reason, error.remedy)))
            continue
        key = _key(line.get("image"))
        if key not in rows:
            rows[key] = Row(str(path), record, folder.image(line.get("image")), shares=True)
            read.rows.append(rows[key])
        texts = key, str(line.get("prefix")), str(line.get("suffix"))
        if texts in seen:
            continue
        seen.add(texts)
        try:
            classes, objects = _objects(line, record)
        except BadValue as bad:
            add_problem(rows[key], "box", bad.reason, bad.remedy, record)
            continue
        rows[key].objects += objects
        asked.setdefault(key, set()).update(classes)
    _mark_unasked(rows, asked)
    return read


def _objects(line: dict[str, Any], record: str) -> tuple[list[str], list[RowObject]]:
    """The classes that a line asks for, and its objects. Raises BadValue."""
    prefix, suffix = line.get("prefix"), line.get("suffix")
    if not isinstance(prefix, str) or not prefix.strip().startswith(_DETECT):
        raise BadValue("its prefix does not begin with detect", f'Write "detect a ; b". {_AS_TEXT}')
    if not isinstance(suffix, str):
        raise BadValue("its suffix is missing or not a text", 'Give "<loc0001>... a", or "" without an object.')
    classes = [name for one in prefix.strip().partition(" ")[2].split(";") if (name := one.strip())]
    found = parse_detections(_CODES.sub("", suffix))
    if found.rejected:
        part, reason = found.rejected[0]
        raise BadValue(f"{part[:60]!r} in its suffix is no box: {reason}", "Correct it, or remove the line.")
    for box in found.boxes:
        if box.label not in classes:
            raise BadValue(
                f"its suffix has {box.label!r}, which its prefix does not ask for", "Name it in the prefix."
            )
    return classes, [
        RowObject(box.label, [box.x1, box.y1, box.x2 - box.x1, box.y2 - box.y1], None, record) for box in found.boxes
    ]


def _mark_unasked(rows: dict[str, Row], asked: dict[str, set[str]]) -> None:
    every = set().union(*asked.values())
    for key, classes in asked.items():
        if missing := sorted(every - classes):
            remedy = f"Name every class in every prefix. {_AS_TEXT}"
            add_problem(rows[key], "unasked", f"its prefixes do not ask for {', '.join(missing[:3])}", remedy)


def _key(image: Any) -> str:
    try:
        return str(one_image(image))
    except BadValue:
        return repr(image)
