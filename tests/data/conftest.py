import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image


@pytest.fixture(scope="session")
def drawings(tmp_path_factory) -> Path:
    """A cache folder of this test run."""
    return tmp_path_factory.mktemp("drawings")


@pytest.fixture
def write_jsonl(tmp_path):
    """Write records (dicts, or raw lines) beside a good picture `good.png`; returns the file."""
    Image.new("RGB", (20, 10), (200, 30, 40)).save(tmp_path / "good.png")

    def write(records: list[Any]) -> Path:
        lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
        (tmp_path / "my.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
        return tmp_path / "my.jsonl"

    return write
