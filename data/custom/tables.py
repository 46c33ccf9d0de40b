"""Rows of people's JSON lines, CSV and TSV files and JSON lists, whatever their encoding and separator."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openpali.data.files.annotations import BadPart, read_json
from openpali.data.files.conversations import KEYS, conversation_key, questions
from openpali.data.files.text_encoding import read_text
from openpali.data.records import BadRecord

TABLE_ENDS = (".jsonl", ".csv", ".tsv")
_SEPARATORS = ",;\t|"


def read_table(path: Path, talk: bool = True) -> list[tuple[str, Any]]:
    """Number of the line and values of each record; a BadPart in place of the values of one that is none.

    Args:
        path: of the file.
        talk: make a record of each question of a conversation.

    Raises:
        BadRecord: the file cannot be read at all.
    """
    rows = _table(path)
    return [each for record, row in rows for each in (records_of(record, row) if talk else [(record, row)])]


def records_of(record: str, row: Any) -> list[tuple[str, Any]]:
    """A row, or what its conversation asks, with names for messages."""
    key = conversation_key(row)
    if key is None:
        return [(record, row)]
    try:
        found = questions(row, key)
    except BadPart as part:
        return [(record, part)]
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
    # not splitlines: other ends of lines may stand in a text
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield str(number), _line(line)


def _csv(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    """Rows of a CSV or TSV file, whatever parts its columns. Raises BadRecord."""
    first, _, rest = text.partition("\n")
    # what Excel writes to say which separator it has taken
    first = first.rstrip("\r")
    told = first.lower().startswith("sep=") and len(first) == 5
    header = rest.partition("\n")[0] if told else first
    usual = "\t" if path.suffix == ".tsv" else ","
    separator = first[4] if told else usual if usual in header else max(_SEPARATORS, key=header.count)
    reader = csv.DictReader(io.StringIO(rest if told else text, newline=""), delimiter=separator)
    twice = [name for name, count in Counter(reader.fieldnames or ()).items() if name and count > 1]
    if twice:
        raise BadRecord(str(path), 1 + told, f"two columns are called {twice[0]!r}", "Rename one of them.")
    try:
        for row in reader:
            number = str(reader.line_num + told)
            if None in row:
                reason = f"it has {len(row) - 1 + len(row[None])} values, and the header names {len(row) - 1} columns"
                yield number, BadPart(reason, "Put texts that hold the separator in quotation marks.")
            else:
                yield number, {key: decoded(value) if key in KEYS else value for key, value in row.items()}
    except csv.Error as error:
        raise BadRecord(str(path), reader.line_num + told, f"it cannot be read ({error})", "Mend the line.") from error


def _line(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        return BadPart(f"it is not JSON ({error})", "Mend the line.")


def decoded(value: Any) -> Any:
    """A list or an object that a CSV file has as JSON."""
    if isinstance(value, str) and value[:1] in "[{":
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value
