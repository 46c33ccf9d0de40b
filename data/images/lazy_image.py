"""ImageFolder that were seen before: known by their file, and not decoded unless somebody looks at their pixels.

A file is taken for the same as long as its path, its size in bytes and the time of its last change are.
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
    """What tells an image from others: its mode, size and pixels. Of an image not looked at, what is known of it."""
    if isinstance(image, LazyImage) and not image.decoded:
        return image.key
    digest = blake2b(f"{image.mode} {image.size}".encode(), digest_size=KEY_BYTES)
    digest.update(image.tobytes())
    return digest.digest()


class LazyImage(Image.Image):
    """An RGB image whose size and key are known; as with Pillow's own files, `load` reads the pixels.

    Attributes:
        key: `image_key` of the file's pixels.
        decoded: whether somebody looked at the pixels, and may have drawn on them.
    """

    def __init__(self, path: Path, decode_size: int | None, size: tuple[int, int], key: bytes):
        super().__init__()
        self._mode, self._size = "RGB", size
        self.path, self.decode_size, self.key, self.decoded = path, decode_size, key, False

    def load(self) -> Any:
        """Decode, the first time."""
        if not self.decoded:
            self.im = decode_image(self.path, self.decode_size).im
            self.decoded = True
        return super().load()


class ImageFiles:
    """What was seen in which file, kept in a file of lines to which any number of processes may add.

    Args:
        path: of that file.
    """

    def __init__(self, path: Path):
        self.path = path
        self.known: dict[FileState, tuple[tuple[int, int], bytes]] = {}
        for line in path.read_text("utf-8").splitlines() if path.exists() else ():
            try:
                name, changed, length, decode_size, width, height, key = json.loads(line)
            except ValueError:
                # torn by a kill
                continue
            self.known[name, changed, length, decode_size] = (width, height), bytes.fromhex(key)

    def recall(self, path: Path, decode_size: int | None) -> Image.Image | None:
        """The image of a file that was seen as it is now."""
        found = self.known.get(state_of(path, decode_size))
        return None if found is None else LazyImage(path, decode_size, *found)

    def remember(self, path: Path, decode_size: int | None, image: Image.Image) -> None:
        """Note what a file holds, before anybody draws on it."""
        state, key = state_of(path, decode_size), image_key(image)
        self.known[state] = image.size, key
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            # after a line that a kill has torn there must be a new one
            os.write(handle, ("\n" + json.dumps([*state, *image.size, key.hex()])).encode())
        finally:
            os.close(handle)


def state_of(path: Path, decode_size: int | None) -> FileState:
    """What tells a file from a changed one."""
    stat = path.stat()
    return str(path.absolute()), stat.st_mtime_ns, stat.st_size, decode_size
