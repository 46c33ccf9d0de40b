"""Parallel work on tar shards that can be resumed: processes, atomically written files, and settings.

A script started again skips the shards that it has finished; with other settings it refuses their folder.
"""

import io
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pyarrow
from datasets import Dataset
from pyarrow import parquet


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A temporary name in the same folder to write to; the file gets its own name when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # processes of two machines may have one number
    aside = path.with_name(f".{uuid4().hex[:12]}-{path.name}")
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_shard(path: Path, samples: Iterable[tuple[str, dict[str, bytes]]]) -> int:
    """Write samples as a tar shard; the same samples give the same bytes.

    Args:
        path: of the shard.
        samples: key, and content by extension.

    Returns:
        The number of samples.
    """
    count = 0
    with written_aside(path) as aside, tarfile.open(aside, "w", format=tarfile.PAX_FORMAT) as archive:
        for key, members in samples:
            for extension, content in members.items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            count += 1
    return count


def write_table(path: Path, columns: dict[str, list]) -> None:
    """Write columns as a parquet file."""
    with written_aside(path) as aside:
        parquet.write_table(pyarrow.table(columns), aside)


def read_table(path: Path) -> dict[str, list[Any]]:
    """Columns of a parquet file."""
    return parquet.read_table(path).to_pydict()


def in_parallel(
    function: Callable[[dict[str, Any], int | None], dict[str, Any]],
    rows: list[dict[str, Any]],
    processes: int,
    what: str,
) -> list[dict[str, Any]]:
    """Results of a function on rows, in several processes.

    Args:
        function: from a row and the number of its process to a row of results; must be picklable.
        rows: one for each shard.
        processes: to use; each loads what the function needs.
        what: title of the progress bar.
    """
    if not rows:
        return []
    table = Dataset.from_list(rows)
    count = min(processes, len(rows))
    options: dict[str, Any] = {"num_proc": count} if count > 1 else {}
    done = table.map(
        function, with_rank=True, desc=what, load_from_cache_file=False, remove_columns=table.column_names, **options
    )
    return cast(list[dict[str, Any]], list(done))


def claim(folder: Path, settings: dict[str, Any]) -> None:
    """Note the settings of a run in its folder, or resume a run with the same settings.

    Raises:
        SystemExit: the folder has a run with other settings.
    """
    path = folder / "settings.json"
    # as JSON reads them, such as lists for tuples
    settings = json.loads(json.dumps(settings))
    if path.exists():
        earlier = json.loads(path.read_text("utf-8"))
        keys = [key for key in {**earlier, **settings} if earlier.get(key) != settings.get(key)]
        if keys:
            changes = "; ".join(f"{key}: {earlier.get(key)} before, {settings.get(key)} now" for key in keys)
            raise SystemExit(f"error: {folder} has a run with other settings ({changes}): give another --output")
        return
    with written_aside(path) as aside:
        aside.write_text(json.dumps(settings, indent=2) + "\n")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically."""
    with written_aside(path) as aside:
        aside.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
