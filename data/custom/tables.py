"""Rows of JSON lines, CSV, TSV and JSON lists, in any usual encoding and with any usual separator."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openpali.data.files.annotations import BadValue, read_json
from openpali.data.files.conversations import KEYS, conversation_key, questions
from openpali.data.files.text_encoding import read_text
from openpali.data.records import BadRecord

TABLE_ENDS = (".jsonl", ".csv", ".tsv")
_SEPARATORS = ",;\t|"


def read_table(path: Path, talk: bool = True) -> list[tuple[str, Any]]:
    """Line number and values of each record; a BadValue in place of values that cannot be read.

    Args:
        path: of the file.
        talk: make a record of each question of a conversation.

    Raises:
        BadRecord: the file cannot be read at all.
    """
    rows = _table(path)
    return [each for record, row in rows for each in (records_of(record, row) if talk else [(record, row)])]


def records_of(record: str, row: Any) -> list[tuple[str, Any]]:
    """The row, or a record for each question of its conversation, each with its name for messages."""
    key = conversation_key(row)
    if key is None:
        return [(record, row)]
    try:
        found = questions(row, key)
    except BadValue as bad:
        return [(record, bad)]
    several = len(found) > 1
    return [(f"{record} question {place}" if several else record, one) for place, one in enumerate(found, 1)]


def _table(path: Path) -> Iterator[tuple[str, Any]]:
    if path.suffix == ".json":
        content = read_json(path)
        for number, row in enumerate(content if isinstance(content, list) else ()):
            yield f"entry {number}", row
        return
    text = read_text(path).removeprefix("\ufeff")
    if path.suffix in (".csv", ".tsv"):
        yield from _csv(path, text)
        return
    # not splitlines: a text may hold other line separators
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield str(number), _line(line)


def _csv(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    """Rows of a CSV or TSV file with any usual separator. Raises BadRecord."""
    first, _, rest = text.partition("\n")
    # Excel's line that declares the separator
    first = first.rstrip("\r")
    declared = first.lower().startswith("sep=") and len(first) == 5
    header = rest.partition("\n")[0] if declared else first
    usual = "\t" if path.suffix == ".tsv" else ","
    separator = first[4] if declared else usual if usual in header else max(_SEPARATORS, key=header.count)
    reader = csv.DictReader(io.StringIO(rest if declared else text, newline=""), delimiter=separator)
    twice = [name for name, count in Counter(reader.fieldnames or ()).items() if name and count > 1]
    if twice:
        raise BadRecord(str(path), 1 + declared, f"two columns are called {twice[0]!r}", "Rename one of them.")
    try:
        for row in reader:
            number = str(reader.line_num + declared)
            if None in row:
                reason = f"it has {len(row) - 1 + len(row[None])} values, and the header names {len(row) - 1} columns"
                yield number, BadValue(reason, "Put texts that contain the separator in quotation marks.")
            else:
                yield number, {key: decoded(value) if key in KEYS else value for key, value in row.items()}
    except csv.Error as error:
        reason = f"it cannot be read ({error})"
        raise BadRecord(str(path), reader.line_num + declared, reason, "Fix the line.") from error


def _line(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        return BadValue(f"it is not JSON ({error})", "Fix the line.")


def decoded(value: Any) -> Any:
    """The list or object of a cell that holds JSON; any other value as it is."""
    if isinstance(value, str) and value[:1] in "[{":
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value
