"""Files of a run that can be resumed: written whole or not at all, and the settings by which its folder is known."""

import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4


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
