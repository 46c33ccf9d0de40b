"""Read samples of tar shards in the WebDataset layout sequentially, locally or through fsspec.

Members with the same name up to its first dot form a sample: `000017.jpg`, `000017.txt`, `000017.json`. Nothing is
written to disk, and one sample at a time is in memory. A damaged sample or shard yields a sample with a `problem`.
"""

import contextlib
import lzma
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

from openpali.data.files.shard_files import open_shard

MAX_MEMBER_BYTES = 256 * 2**20
_OVER = -1
_DAMAGE = (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError, ValueError, OverflowError)


class Place(NamedTuple):
    """A position in a shard: byte offset of a sample (negative at the end), and number of samples before it."""

    offset: int = 0
    number: int = 0


START = Place()


@dataclass
class Sample:
    """The undecoded files of one record.

    Attributes:
        shard: the shard's name without extension.
        key: the common part of the files' names.
        place: where it begins.
        after: where the next one begins.
        members: lower-case extension, without the first dot, to content.
        problem: reason and remedy if it cannot be used.
        lost: the rest of the shard cannot be read.
    """

    shard: str
    key: str
    place: Place
    after: Place
    members: dict[str, bytes] = field(default_factory=dict)
    problem: tuple[str, str] | None = None
    lost: bool = False


def read_samples(
    url: str, shard: str, start: Place = START, wanted: Callable[[int], bool] = lambda number: True
) -> Iterator[Sample]:
    """Samples of one shard from `start` on.

    Args:
        url: a path, or an address that fsspec opens.
        shard: name of the shard in its samples.
        start: where to begin; the `after` of an earlier sample.
        wanted: which samples to yield, by number in the shard; files of others are skipped without reading in
            uncompressed shards.
    """
    number, place, sample = start.number, start, None
    if start.offset < 0:
        return
    try:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(open_shard(url))
            if start.offset:
                file.seek(start.offset)
            archive = tarfile.TarFile(fileobj=file, mode="r")
            while (info := archive.next()) is not None:
                # the archive would keep all members in memory
                cast(Any, archive).members = []
                if info.size < 0 or archive.offset <= info.offset:
                    raise tarfile.ReadError(f"{info.name} has a size of {info.size} bytes")
                name = _name(info)
                if name is None:
                    continue
                if sample is None or sample.key != name[0]:
                    place = Place(info.offset, number)
                    if sample is not None:
                        sample.after = place
                        if wanted(sample.place.number):
                            yield sample
                    sample = Sample(shard, name[0], place, place)
                    number += 1
                if wanted(sample.place.number) and sample.problem is None:
                    _take(archive, info, name[1], sample)
            end = Place(archive.offset, number)
            if sample is not None:
                sample.after = end
                if wanted(sample.place.number):
                    yield sample
            sample, place = None, end
            _check_end(file, archive.offset)
    except _DAMAGE as error:
        if sample is None:
            sample, number = Sample(shard, f"byte {place.offset}", Place(place.offset, number), place), number + 1
        if wanted(sample.place.number):
            yield _broken(sample, number, error)


def _broken(sample: Sample, number: int, error: Exception) -> Sample:
    end = Place(_OVER, number)
    if isinstance(error, FileNotFoundError) and not sample.place.offset:
        problem = ("there is no such shard", "Check the path, or leave the shard out of the list.")
    else:
        problem = (f"the shard is damaged here or ends too early ({error})", "Copy the shard again from its origin.")
    return Sample(sample.shard, sample.key, sample.place, end, problem=problem, lost=True)


def _name(info: tarfile.TarInfo) -> tuple[str, str] | None:
    """Key and extension of a member; None for folders and hidden files, which some systems add."""
    folder, _, base = info.name.rpartition("/")
    stem, dot, extension = base.partition(".")
    if info.isdir() or (dot and not stem):
        return None
    return (f"{folder}/{stem}" if folder else stem), extension.lower()


def _take(archive: tarfile.TarFile, info: tarfile.TarInfo, extension: str, sample: Sample) -> None:
    """Read a member into its sample, or set the sample's problem."""
    parts = re.split(r"[/\\]", info.name)
    if ".." in parts or info.name.startswith(("/", "\\")) or "\0" in info.name or re.match("[A-Za-z]:", info.name):
        sample.problem = (f"the name {info.name!r} leads out of the shard", "Name members relative to the shard.")
    elif not info.isreg():
        sample.problem = (f"{info.name} is a link or a device and not a file", "Store the file itself.")
    elif info.size > MAX_MEMBER_BYTES:
        sample.problem = (f"{info.name} has {info.size:,} bytes", f"At most {MAX_MEMBER_BYTES:,} are read.")
    elif extension in sample.members:
        sample.problem = (f"{info.name} is there twice", "Give every sample a key of its own.")
    else:
        content = cast(Any, archive.extractfile(info)).read()
        if len(content) < info.size:
            raise tarfile.ReadError(f"{info.name} ends after {len(content)} of {info.size} bytes")
        sample.members[extension] = content


def _check_end(file: Any, offset: int) -> None:
    """Raise ReadError unless the shard ends properly: tarfile treats a broken header as the end."""
    file.seek(offset)
    rest = file.read(tarfile.BLOCKSIZE)
    if rest.strip(b"\0"):
        raise tarfile.ReadError(f"no header of a member at byte {offset}")
