"""Samples out of tar shards in the WebDataset layout, in order, from this machine or through fsspec from another one.

Members that share a name up to its first dot are one sample: `000017.jpg`, `000017.txt`, `000017.json`. Nothing is
written to disk, and no more than one sample is in memory. What is broken comes out as a sample that says so.
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
    """Where to go on in a shard: the byte at which a sample begins (below 0: nowhere), and how many are before it."""

    offset: int = 0
    number: int = 0


START = Place()


@dataclass
class Sample:
    """The undecoded files of one record.

    Attributes:
        shard: the shard's name without its ending.
        key: what the files' names share.
        place: where it begins.
        after: where the next one begins.
        members: content by extension in small letters, without the first dot.
        problem: reason and remedy where it cannot be used.
        lost: nothing more can be read of its shard.
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
        shard: the name that samples carry.
        start: where to begin; the `after` of a sample that was read before.
        wanted: by a sample's number in the shard; files of the others are passed over without reading them, where the
            shard is not compressed.
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
                # the archive would remember every member that it has seen
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
    """Key and extension of a member; None for folders and for hidden files, which some systems add."""
    folder, _, base = info.name.rpartition("/")
    stem, dot, extension = base.partition(".")
    if info.isdir() or (dot and not stem):
        return None
    return (f"{folder}/{stem}" if folder else stem), extension.lower()


def _take(archive: tarfile.TarFile, info: tarfile.TarInfo, extension: str, sample: Sample) -> None:
    """Read a member into its sample, or say there why it is not read."""
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
    """Tarfile takes a broken header for the end; a true end is empty or a block of zeros."""
    file.seek(offset)
    rest = file.read(tarfile.BLOCKSIZE)
    if rest.strip(b"\0"):
        raise tarfile.ReadError(f"no header of a member at byte {offset}")
