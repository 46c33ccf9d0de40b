"""Reader of big_vision's `.npz` checkpoints: one array, or one layer of a stacked array, at a time.

A checkpoint is a zip archive with one `.npy` member for each parameter, named by its path ("img/head/kernel").
Members are read in order and in pieces, compressed or not, so that no more than one layer is in memory and the
archive's checksums are compared on the way. Nothing is ever unpickled.
"""

import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch

# prefixes of the parameters: of the trainer's checkpoints, and of older ones; released weights have none
ROOTS = ("params/", "opt/target/")
# numpy has no bfloat16 and stores JAX's as two untyped bytes
DTYPES = {"<f4": torch.float32, "<f2": torch.float16, "<f8": torch.float64, "|V2": torch.bfloat16}
PIECE = 1 << 26

_LAYER = re.compile(r"(.*encoderblock)_(\d+)/(.*)|(llm/layers)/(\d+)/(.*)|(decoder/EncDecBlock)(\d+)/(.*)")
_STACKED = re.compile(r"(.*encoderblock|llm/layers|decoder/EncDecBlock)/(?!\d)")
# a captioner's decoder is stacked on its second axis
_SECOND_AXIS = "decoder/EncDecBlock/"


@dataclass(frozen=True)
class Source:
    """A parameter of the checkpoint, of every layer where it has layers.

    Attributes:
        members: keys in the file: one, or one for each layer when the layers are not stacked.
        shape: of the parameter in one layer.
        layers: their number; None for a parameter outside the layers.
        dtype: as stored.
        axis: of the layers where they are stacked.
    """

    members: tuple[str, ...]
    shape: tuple[int, ...]
    layers: int | None
    dtype: torch.dtype
    axis: int = 0

    @property
    def size(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape, dtype=np.int64)) * (1 if self.layers is None else self.layers)


@dataclass(frozen=True)
class _Header:
    member: str
    shape: tuple[int, ...]
    dtype: torch.dtype


class Checkpoint:
    """The parameters of an `.npz` file.

    Attributes:
        path: the file.
        sources: by key without its root and without the number of a layer: `llm/layers/mlp/linear` is the same for
            `params/llm/layers/mlp/linear` of shape [L, F, D] and for `llm/layers/0/mlp/linear` and so on.
        ignored: keys outside the root, such as the optimizer's state.

    Raises:
        ValueError: naming the file or the key, if it is damaged, is no checkpoint, or holds Python objects.
        OSError: if the file cannot be read.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            self._archive = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise ValueError(
                f"{path} is no complete .npz file ({error}): compare its size with the original's, and fetch it again"
            ) from error
        names = [_safe_key(path, name) for name in self._archive.namelist()]
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"{path} holds {twice} twice: it was put together wrongly, fetch it again")
        root = next((root for root in ROOTS if any(name.startswith(root) for name in names)), "")
        self.ignored = [name for name in names if not name.startswith(root)]
        headers = {name.removeprefix(root): self._header(name) for name in names if name.startswith(root)}
        self.sources = _group_layers(path, headers)

    def __enter__(self) -> "Checkpoint":
        return self

    def __exit__(self, *error: object) -> None:
        self._archive.close()

    def tensors(self, source: Source) -> Iterator[torch.Tensor]:
        """The parameter of each layer in order, or the single one outside the layers.

        Raises:
            ValueError: naming the key whose data are damaged.
        """
        parts = source.layers if source.layers is not None and len(source.members) == 1 else 1
        for member in source.members:
            try:
                yield from self._read(member, source, parts)
            except (zipfile.BadZipFile, zlib.error, EOFError) as error:
                raise ValueError(
                    f"{self.path}: the data of {member} are damaged ({error}): fetch the file again"
                ) from error

    def _read(self, member: str, source: Source, parts: int) -> Iterator[torch.Tensor]:
        with self._archive.open(f"{member}.npy") as stream:
            shape, column_major, _ = _read_header(stream)
            length = int(np.prod(source.shape, dtype=np.int64)) * source.dtype.itemsize
            if column_major or source.axis and len(source.members) == 1:
                # the first axis varies fastest, or layers are on a later one: no layer lies in one piece
                whole = _take(stream, length * parts).view(source.dtype)
                whole = whole.reshape(shape[::-1]).permute(*reversed(range(len(shape)))) if column_major else whole
                whole = whole.reshape(shape)
                yield from whole.unbind(source.axis) if parts > 1 else [whole.reshape(source.shape)]
            else:
                for _ in range(parts):
                    yield _take(stream, length).view(source.dtype).reshape(source.shape)
            if stream.read(1):
                raise EOFError("more bytes than its shape needs")

    def _header(self, key: str) -> _Header:
        try:
            with self._archive.open(f"{key}.npy") as stream:
                shape, _, dtype = _read_header(stream)
        # zipfile: torn members, encrypted ones (RuntimeError), unknown compression (NotImplementedError)
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, NotImplementedError) as error:
            raise ValueError(f"{self.path}: {key} cannot be read ({error}): fetch the file again") from error
        if dtype.hasobject:
            raise ValueError(
                f"{self.path}: {key} holds Python objects. Reading them would run code of the file, so it is refused;"
                " released checkpoints hold numbers only"
            )
        if dtype.str not in DTYPES:
            raise ValueError(
                f"{self.path}: {key} has dtype {dtype.str}; parameters are float32, float16, float64 or bfloat16"
            )
        return _Header(key, shape, DTYPES[dtype.str])


def _safe_key(path: Path, name: str) -> str:
    """The key of a member; members are never unpacked, but a name that would leave a folder is no checkpoint's."""
    if name.startswith("/") or "\\" in name or ".." in name.split("/"):
        raise ValueError(f"{path}: member {name!r} would leave the folder when unpacked: do not trust this file")
    if not name.endswith(".npy"):
        raise ValueError(f"{path}: member {name!r} is no array: this is a zip archive, but no .npz checkpoint")
    return name.removesuffix(".npy")


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether the first axis varies fastest, and dtype."""
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(stream)
    raise ValueError(f"version {version} of the .npy format is not known")


def _take(stream: IO[bytes], length: int) -> torch.Tensor:
    """The next `length` bytes, as uint8."""
    data = np.empty(length, dtype=np.uint8)
    done = 0
    while done < length:
        piece = stream.read(min(PIECE, length - done))
        if not piece:
            raise EOFError(f"{length - done} bytes are missing")
        data[done : done + len(piece)] = np.frombuffer(piece, dtype=np.uint8)
        done += len(piece)
    return torch.from_numpy(data)


def _group_layers(path: Path, headers: dict[str, _Header]) -> dict[str, Source]:
    """One source for each parameter, from stacked (`encoderblock/…`) or separate layers (`encoderblock_0/…`)."""
    sources: dict[str, Source] = {}
    separate: dict[str, dict[int, _Header]] = {}
    for key, header in headers.items():
        if match := _LAYER.fullmatch(key):
            stem, number, rest = (group for group in match.groups() if group is not None)
            separate.setdefault(f"{stem}/{rest}", {})[int(number)] = header
        elif _STACKED.match(key):
            axis = 1 if key.startswith(_SECOND_AXIS) else 0
            if len(header.shape) <= axis:
                raise ValueError(
                    f"{path}: {header.member} has the shape {list(header.shape)}, without an axis of layers"
                    if header.shape
                    else f"{path}: {header.member} is a single number, where one for each layer is stacked"
                )
            shape = header.shape[:axis] + header.shape[axis + 1 :]
            sources[key] = Source((header.member,), shape, header.shape[axis], header.dtype, axis)
        else:
            sources[key] = Source((header.member,), header.shape, None, header.dtype)
    for key, by_layer in separate.items():
        if key in sources:
            raise ValueError(f"{path}: {key} is there both stacked and for single layers")
        sources[key] = _from_layers(path, key, by_layer)
    return sources


def _from_layers(path: Path, key: str, by_layer: dict[int, _Header]) -> Source:
    if sorted(by_layer) != list(range(len(by_layer))):
        gap = min(set(range(max(by_layer))) - set(by_layer))
        raise ValueError(f"{path}: {key} has no layer {gap}, though later ones are there: the file is incomplete")
    headers = [by_layer[layer] for layer in range(len(by_layer))]
    for header in headers:
        if (header.shape, header.dtype) != (headers[0].shape, headers[0].dtype):
            raise ValueError(f"{path}: {header.member} differs in shape or dtype from {headers[0].member}")
    return Source(tuple(header.member for header in headers), headers[0].shape, len(headers), headers[0].dtype)
