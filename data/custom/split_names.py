"""The usual names of the splits, in names of files and folders."""

import re

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}


def split_of(name: str) -> str:
    """The split that a file or folder is named after; "" for none."""
    # a year may follow: train2017
    words = {word for word in re.split(r"[^a-z]+", name.lower()) if word}
    return next((split for split, names in SPLITS.items() if words & set(names)), "")
