"""Images that were decoded in an earlier run: size and key are known, and pixels are decoded on first use.

A file counts as unchanged while its path, size in bytes and modification time are the same.
"""

import json
import os
from hashlib import blake2b
from pathlib import Path
from typing import Any

from PIL import Image

from openpali.data.images.open_image import decode_image

KEY_BYTES = 16
# path, time of change in nanoseconds, bytes, decode_size
FileState = tuple[str, int, int, int | None]


def image_key(image: Image.Image) -> bytes:
    """Hash of an image's mode, size and pixels; for an undecoded `LazyImage` the known one."""
    if isinstance(image, LazyImage) and not image.decoded:
        return image.key
    digest = blake2b(f"{image.mode} {image.size}".encode(), digest_size=KEY_BYTES)
    digest.update(image.tobytes())
    return digest.digest()


class LazyImage(Image.Image):
    """An RGB image of known size and key; as with Pillow's own files, `load` decodes the pixels.

    Attributes:
        key: `image_key` of the file's pixels.
        decoded: whether the pixels were accessed, and may have been changed.
    """

    def __init__(self, path: Path, decode_size: int | None, size: tuple[int, int], key: bytes):
        super().__init__()
        self._mode, self._size = "RGB", size
        self.path, self.decode_size, self.key, self.decoded = path, decode_size, key, False

    def load(self) -> Any:
        """Decode on the first call."""
        if not self.decoded:
            self.im = decode_image(self.path, self.decode_size).im
            self.decoded = True
        return super().load()


class ImageFiles:
    """Sizes and keys of image files, in a file of lines that several processes can append to.

    Args:
        path: of the file of lines.
    """

    def __init__(self, path: Path):
        self.path = path
        self.known: dict[FileState, tuple[tuple[int, int], bytes]] = {}
        for line in path.read_text("utf-8").splitlines() if path.exists() else ():
            try:
                name, changed, length, decode_size, width, height, key = json.loads(line)
            except ValueError:
                # an incomplete line of a killed process
                continue
            self.known[name, changed, length, decode_size] = (width, height), bytes.fromhex(key)

    def recall(self, path: Path, decode_size: int | None) -> Image.Image | None:
        """The image of a file that is unchanged since `remember`; None for any other."""
        found = self.known.get(state_of(path, decode_size))
        return None if found is None else LazyImage(path, decode_size, *found)

    def remember(self, path: Path, decode_size: int | None, image: Image.Image) -> None:
        """Store size and key of a freshly decoded file."""
        state, key = state_of(path, decode_size), image_key(image)
        self.known[state] = image.size, key
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            # begins with a line break, since a killed process may have left an incomplete line
            os.write(handle, ("\n" + json.dumps([*state, *image.size, key.hex()])).encode())
        finally:
            os.close(handle)


def state_of(path: Path, decode_size: int | None) -> FileState:
    """Path, modification time, size and decode size of a file."""
    stat = path.stat()
    return str(path.absolute()), stat.st_mtime_ns, stat.st_size, decode_size
