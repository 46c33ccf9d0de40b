"""Open an image from a path, bytes or an array as upright RGB, with a clear error for an unusable one."""

import io
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from PIL import Image, ImageOps

from openpali.data.images.pixel_range import UnknownRange, is_wide, to_eight_bits
from openpali.data.records import MAX_PIXELS
from openpali.modeling.user_errors import UserError

MIN_SIDE = 4
DRAFT_MARGIN = 2
"""Factor by which a JPEG decoded at reduced size is larger than needed. At 1, the decoder's block means would replace
the final filter, and photographs would visibly lose detail."""

ImageSource: TypeAlias = str | Path | bytes | Image.Image | np.ndarray

_HEAD = 64
_POINTER = b"version https://git-lfs"
_STARTS: dict[str, bytes | tuple[bytes, bytes]] = {"PNG": b"\x89PNG", "JPEG": b"\xff\xd8", "GIF": b"GIF8"}
_STARTS |= {"WebP": b"RIFF", "BMP": b"BM", "TIFF": (b"II*\0", b"MM\0*")}
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, IndexError, EOFError, KeyError, struct.error, zlib.error)


class BadImage(UserError, ValueError):
    """An image that cannot be used. The message has the reason and the remedy."""


class ImageMemory(Protocol):
    """A cache of images of files that were decoded before (`openpali.data.images.lazy_image`)."""

    def recall(self, path: Path, decode_size: int | None) -> Image.Image | None: ...  # noqa: D102

    def remember(self, path: Path, decode_size: int | None, image: Image.Image) -> None: ...  # noqa: D102


_memory: ContextVar[ImageMemory | None] = ContextVar("memory of images", default=None)


@contextmanager
def remembered(memory: ImageMemory) -> Iterator[None]:
    """Make [`load_image`] look images up in a memory, and store there what it decodes."""
    token = _memory.set(memory)
    try:
        yield
    finally:
        _memory.reset(token)


def load_image(source: ImageSource, decode_size: int | None = None) -> Image.Image:
    """Decode an image to RGB, upright, after checking its size from the header.

    Args:
        source: a path, encoded bytes, a PIL image, or `uint8[H, W]`, `uint8[H, W, 3]` or `uint8[H, W, 4]`.
        decode_size: side in pixels to which the image will be resized. A JPEG is then decoded at a half, a quarter or
            an eighth of its size while both sides stay at least twice as long, which saves most of the work on a
            photograph. The difference after resizing is about that of saving it once more.

    Raises:
        BadImage: missing, unreadable, truncated, below `MIN_SIDE` on a side or above `MAX_PIXELS`.
    """
    memory = _memory.get()
    if memory is None or not isinstance(source, str | Path):
        return decode_image(source, decode_size)
    path = _existing(source)
    known = memory.recall(path, decode_size)
    if known is None:
        known = decode_image(path, decode_size)
        memory.remember(path, decode_size, known)
    return known


def decode_image(source: ImageSource, decode_size: int | None) -> Image.Image:
    """[`load_image`] without the memory."""
    image, name = _open(source)
    _check_size(image.size, name)
    try:
        if decode_size is not None:
            # no effect on other formats
            image.draft(None, (DRAFT_MARGIN * decode_size, DRAFT_MARGIN * decode_size))
        return _to_rgb(ImageOps.exif_transpose(image), image)
    except UnknownRange as error:
        raise BadImage(f"{name} cannot be used: {error}.") from error
    except _BOMBS + _DECODE_ERRORS as error:
        if isinstance(error, OSError) and "truncated" in str(error).lower():
            reason = f"{name} is truncated: the file ends before the image does. Copy it again from its origin."
        else:
            reason = f"{name} cannot be decoded ({error}). Open it in an image viewer and save it again."
        raise BadImage(reason) from error


def image_size(source: ImageSource) -> tuple[int, int]:
    """Width and height in pixels from the header alone; nothing is decoded.

    Raises:
        BadImage: missing, not an image, below `MIN_SIDE` on a side or above `MAX_PIXELS`.
    """
    image, name = _open(source)
    _check_size(image.size, name)
    if not isinstance(source, Image.Image):
        image.close()
    return image.size


def _open(source: ImageSource) -> tuple[Image.Image, str]:
    if isinstance(source, Image.Image):
        return source, "the image"
    if isinstance(source, np.ndarray):
        return _from_array(source), "the array"
    name = "the image data" if isinstance(source, bytes) else str(source)
    try:
        return Image.open(io.BytesIO(source) if isinstance(source, bytes) else _existing(source)), name
    except _BOMBS as error:
        pixels = re.search(r"\d+", str(error))
        raise BadImage(_too_large(name, f"{int(pixels[0]):,} pixels" if pixels else str(error))) from error
    except _DECODE_ERRORS as error:
        if isinstance(error, BadImage):
            raise
        raise BadImage(f"{name} is not an image that can be read: {_unreadable(source, error)}") from error


def _existing(source: str | Path) -> Path:
    if str(source).startswith(("http://", "https://")):
        raise BadImage(f"{source} is an address on the web; download the image and give its path.")
    path = Path(source)
    if not path.exists():
        raise BadImage(f"{path} does not exist. Check the path and the folder that it is relative to.")
    if not path.is_file():
        raise BadImage(f"{path} is not a file. Give the path of one image.")
    return path


def _unreadable(source: str | Path | bytes, error: Exception) -> str:
    """Why a file could not be opened, and the remedy: one of a format that we read needs no other one."""
    if isinstance(error, PermissionError):
        return "permission denied. Change who may read it."
    if "cannot identify" not in str(error):
        return f"{error}. Copy it again from its origin."
    if isinstance(source, bytes):
        head = source[:_HEAD]
    else:
        with Path(source).open("rb") as file:
            head = file.read(_HEAD)
    if not head:
        return "it is empty. Copy it again from its origin."
    if head.startswith(_POINTER):
        return "it is a pointer of Git LFS. Get the image itself with git lfs pull."
    known = next((form for form, start in _STARTS.items() if head.startswith(start)), None)
    if known:
        return f"it begins as {known} and is damaged. Copy it again from its origin."
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<svg", b"{")):
        return "unknown format: it is text, perhaps an error page of a server. Download the image again."
    return "unknown format. Convert it to PNG or JPEG."


def _from_array(array: np.ndarray) -> Image.Image:
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in (1, 3, 4):
        raise BadImage(
            f"an array of {array.dtype}{list(array.shape)} is not an image. Give uint8[height, width, 3] in 0..255."
        )
    if 0 in array.shape:
        raise BadImage(f"an array of shape {list(array.shape)} has no pixels. Give at least {MIN_SIDE}x{MIN_SIDE}.")
    return Image.fromarray(array[:, :, 0] if array.ndim == 3 and channels == 1 else array)


def _check_size(size: tuple[int, int], name: str) -> None:
    width, height = size
    if min(size) < MIN_SIDE:
        raise BadImage(
            f"{name} is {width}x{height} pixels, too small: each side needs at least {MIN_SIDE}. Replace the image."
        )
    if width * height > MAX_PIXELS:
        raise BadImage(_too_large(name, f"{width}x{height} pixels"))


def _too_large(name: str, size: str) -> str:
    return f"{name} is too large ({size}; at most {MAX_PIXELS:,} pixels). Make a smaller copy of the image."


def _to_rgb(image: Image.Image, stored: Image.Image) -> Image.Image:
    """RGB on white for transparent images; grey of more than 8 bits is rescaled, not clipped."""
    mode: Any = image.mode
    if is_wide(mode):
        return to_eight_bits(image, stored).convert("RGB")
    if image.has_transparency_data:
        layers = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers).convert("RGB")
    return image.convert("RGB") if mode != "RGB" else image
