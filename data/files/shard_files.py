"""Find and open tar shards, locally or through fsspec."""

import contextlib
import io
import re
import time
from typing import Any, cast

import fsspec
from fsspec.compression import compr
from fsspec.implementations.local import LocalFileSystem

ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_WAITS = (1, 2, 4, 8, 16)


def open_shard(url: str) -> Any:
    """The tar stream of a shard, decompressed by its extension."""
    system, path = fsspec.url_to_fs(url)
    here = isinstance(system, LocalFileSystem)
    file: Any = open(path, "rb") if here else io.BufferedReader(RemoteFile(url), 2**20)  # noqa: SIM115
    kinds = {"gz": "gzip", "tgz": "gzip", "bz2": "bz2", "xz": "xz", "zst": "zstd"}
    kind = kinds.get(path.rpartition(".")[2].lower())
    if kind is None:
        return file
    if kind not in compr:
        raise ImportError(f"{url}: no decompression of {kind} here; install the package zstandard")
    return compr[kind](file, mode="rb")


class RemoteFile(io.RawIOBase):
    """A remote file; a failed read is retried for half a minute, from the byte where it failed."""

    def __init__(self, url: str) -> None:
        """Set the address; the file is opened on first read."""
        self.url, self.position = url, 0
        self._file: Any = None
        self._whole = False

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True; without range requests by reading up to the position."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position, from the start or the current one, without a request."""
        if whence == io.SEEK_END:
            raise io.UnsupportedOperation("the length of a remote file is not known")
        self.position = offset + (self.position if whence == io.SEEK_CUR else 0)
        return self.position

    def tell(self) -> int:
        """The position in bytes."""
        return self.position

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; returns the number of bytes read."""
        waits = list(_WAITS)
        while True:
            try:
                content = self._at(self.position).read(len(buffer))
                break
            except FileNotFoundError:
                raise
            except Exception as error:
                self._drop()
                if isinstance(error, ValueError) and not self._whole and self.url.startswith("http"):
                    # a server without range requests sends the whole file
                    self._whole = True
                elif waits:
                    time.sleep(waits.pop(0))
                else:
                    raise OSError(f"{self.url} cannot be read: {error}") from error
        buffer[: len(content)] = content
        self.position += len(content)
        return len(content)

    def close(self) -> None:
        """Close the connection."""
        self._drop()
        super().close()

    def _at(self, position: int) -> Any:
        """The open file at a position, by seeking or by reading up to it."""
        if self._file is not None and self._whole and self._file.tell() > position:
            self._drop()
        if self._file is None:
            options = {"block_size": 0} if self._whole else {}
            self._file = cast(Any, fsspec.open)(self.url, "rb", **options).open()
        if not self._whole:
            self._file.seek(position)
        while self._whole and (left := position - self._file.tell()) > 0 and self._file.read(min(left, 2**20)):
            pass
        return self._file

    def _drop(self) -> None:
        with contextlib.suppress(Exception):
            if self._file is not None:
                self._file.close()
        self._file = None


def find_shards(path: str | list[str]) -> tuple[list[str], list[str]]:
    """Addresses of shards, and a short unique name of each.

    Args:
        path: a folder, a file, a pattern such as `train-*.tar` or `train-{000..099}.tar`, or a list of these; paths,
            or addresses that fsspec opens (`s3://`, `gs://`, `https://`).

    Raises:
        ValueError: no shards, a duplicate, a missing local shard, or a command in place of a path.
    """
    urls: list[str] = []
    for entry in [path] if isinstance(path, str) else path:
        urls += [url for pattern in braces(str(entry)) for url in _found(pattern)]
    if not urls:
        raise ValueError("there are no shards: give path as a folder, a pattern or a list of tar files")
    if len(set(urls)) < len(urls):
        twice = next(url for url in urls if urls.count(url) > 1)
        raise ValueError(f"the shard {twice} is listed twice")
    for parts in range(1, 1 + max(url.count("/") for url in urls) + 1):
        names = ["/".join(_without_ending(url).split("/")[-parts:]) for url in urls]
        if len(set(names)) == len(names):
            return urls, names
    raise ValueError(f"two shards differ only in their extensions, among {', '.join(urls[:3])}")


def _found(pattern: str) -> list[str]:
    if pattern.startswith(("pipe:", "|")):
        raise ValueError(f"{pattern}: shards come from files and addresses, never from a command")
    system, path = fsspec.url_to_fs(pattern)
    here = isinstance(system, LocalFileSystem)
    if re.search(r"[*?\[]", path):
        found = sorted(str(name) for name in system.glob(path))
    elif pattern.endswith("/") or (here and system.isdir(path)):
        inside = [str(name) for name in system.ls(path.rstrip("/"), detail=False)]
        found = sorted(name for name in inside if name.endswith(ENDINGS))
    else:
        if here and not system.isfile(path):
            raise ValueError(f"there is no shard {pattern}")
        return [path if here else pattern]
    # files that are still being written have hidden names
    found = [name for name in found if not name.rpartition("/")[2].startswith(".")]
    if not found:
        raise ValueError(f"there are no shards at {pattern}")
    return found if here else [system.unstrip_protocol(name) for name in found]


def _without_ending(name: str) -> str:
    ending = next((ending for ending in ENDINGS if name.endswith(ending)), "")
    return name[: len(name) - len(ending)]


def braces(pattern: str) -> list[str]:
    """`a-{08..10}.tar` as `a-08.tar`, `a-09.tar`, `a-10.tar`; `{x,y}` as `x` and `y`."""
    found = re.search(r"\{([^{}]*)\}", pattern)
    if found is None:
        return [pattern]
    inner = found[1]
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", inner)
    if numbers is None and "," not in inner:
        raise ValueError(f"{pattern}: write {{000..099}} or {{one,other}} between braces")
    choices = inner.split(",")
    if numbers is not None:
        first, last = int(numbers[1]), int(numbers[2])
        choices = [str(number).zfill(len(numbers[1])) for number in range(first, last + 1)]
    head, tail = pattern[: found.start()], pattern[found.end() :]
    return [full for choice in choices for full in braces(head + choice + tail)]
