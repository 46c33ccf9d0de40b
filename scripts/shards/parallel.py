"""What scripts over tar shards share: parallel processes, files that are there once they are complete, and settings.

A script started again passes over the shards that it has finished; with other settings it refuses their folder.
"""

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pyarrow
from datasets import Dataset
from pyarrow import parquet

from openpali.data.files.tar_shards import read_samples


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Another name in the same folder to write to; the file takes its own name when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{os.getpid()}-{path.name}")
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
        How many were written.
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
    """Results of a function on rows, several processes at work.

    Args:
        function: gives a row of results for a row and the number of its process; of a module, not of a script, since
            it travels to the processes.
        rows: one for each shard.
        processes: to use; each holds whatever the function loads.
        what: is done, beside the progress bar.
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
    """Take a folder for one run with these settings, or go on with an earlier one.

    Raises:
        SystemExit: it holds what was made with other settings.
    """
    path = folder / "settings.json"
    # as they will be read again
    settings = json.loads(json.dumps(settings))
    if path.exists():
        before = json.loads(path.read_text("utf-8"))
        keys = [key for key in {**before, **settings} if before.get(key) != settings.get(key)]
        if keys:
            changes = "; ".join(f"{key}: {before.get(key)} before, {settings.get(key)} now" for key in keys)
            raise SystemExit(f"error: {folder} was begun with other settings ({changes}): give another --output")
        return
    with written_aside(path) as aside:
        aside.write_text(json.dumps(settings, indent=2) + "\n")


def write_json(path: Path, content: Any) -> None:
    """Write a report."""
    with written_aside(path) as aside:
        aside.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")


@dataclass(frozen=True)
class Rewrite:
    """Writes shards again with the samples that are kept.

    A row has `url`, `name`, and `keep`: numbers of samples.
    """

    folder: str

    def __call__(self, row: dict[str, Any], process: int | None) -> dict[str, Any]:
        """Name and number of kept samples of a shard."""
        path = Path(self.folder) / f"{row['name']}.tar"
        keep = set(row["keep"])
        if not path.exists():
            samples = read_samples(row["url"], row["name"], wanted=keep.__contains__)
            write_shard(path, ((own.key, own.members) for own in samples if own.problem is None))
        return {"name": row["name"], "kept": len(keep)}
