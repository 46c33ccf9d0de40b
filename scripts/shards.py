"""What scripts over tar shards share: write one aside and then rename it, and pass over those that are finished."""

import io
import os
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from openpali.data.shards import Sample


def write_shard(path: Path, samples: Iterable[tuple[str, dict[str, bytes]]]) -> int:
    """Write samples as a tar shard; the file is there once it is complete. The same samples give the same bytes.

    Args:
        path: of the shard.
        samples: key, and content by extension.

    Returns:
        How many were written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    count = 0
    try:
        with tarfile.open(aside, "w", format=tarfile.PAX_FORMAT) as archive:
            for key, members in samples:
                for extension, content in members.items():
                    info = tarfile.TarInfo(f"{key}.{extension}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
                count += 1
        aside.rename(path)
    finally:
        aside.unlink(missing_ok=True)
    return count


def members(samples: Iterable[Sample]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Samples as `write_shard` takes them."""
    return ((sample.key, sample.members) for sample in samples)
