"""Custom data as a task reads it: the records of one split or of all."""

from openpali.data.custom.dataset import read_custom
from openpali.data.sources import load_source


def rows(count=20, **columns):
    """Rows of a table: each column's value as a function of the row's number."""
    return [{key: value(number) for key, value in columns.items()} for number in range(count)]


def load_custom(path, kind, **options):
    """The source of custom data, read anew."""
    read_custom.cache_clear()
    return load_source({"name": "custom", "path": str(path), "kind": kind, **options})


def all_records(path, kind, **options):
    """Records of all splits."""
    splits = [load_custom(path, kind, split=split, **options) for split in ("train", "validation", "test")]
    return [split[index] for split in splits for index in range(len(split))]
