"""The images that a file names, which lie in one folder."""

import os
import unicodedata
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from openpali.data.files.annotations import BadValue
from openpali.data.images.open_image import BadImage, load_image
from openpali.data.images.orientation import stored_size

_LONGEST = 1000  # characters of a path; what is longer is an image in text
_LINK = "Copy what it points to, or give an image_root that holds both."


class ImageFolder:
    """The images of a folder, which names and links may not leave."""

    def __init__(self, root: Path, *places: Path) -> None:
        """Look at folders only when they are asked for; each is listed once.

        Args:
            root: the folder.
            places: in it, to which names may be relative, the first one before the others; those that lie elsewhere
                do not count. The folder itself when there are none.
        """
        self.root = root
        inside = root.resolve()
        self._places = [place for place in places if place.resolve().is_relative_to(inside)] or [root]
        self._listed: dict[Path, dict[str, str]] = {}
        self._folded: dict[Path, dict[str, str]] = {}

    def check(self, name: Any) -> str:
        """The name of an existing file, relative to the folder.

        It is found as well where Unicode spells a name in another way (macOS writes "ä" as two characters), and where
        Windows has written the name.

        Raises:
            BadValue: it is no name, leads out of the folder, or there is no such file.
        """
        if not isinstance(name, str) or not name or "\0" in name:
            raise BadValue("its file_name is missing or no text", "Give the image's path within image_root.")
        if name.startswith(("http://", "https://")):
            raise BadValue(f"{name} is an address on the web", "Download the image and give its path.")
        if name.startswith("data:") or len(name) > _LONGEST:
            raise BadValue(f"{name[:40]}... is no name of a file", "Save the image as a file and give its path.")
        path = PurePosixPath(name.removeprefix("file://").replace(os.sep, "/"))
        found = self._find(path) or "\\" in name and self._find(PurePosixPath(name.replace("\\", "/")))
        if found:
            return found
        if self._relative(path) is None:
            raise BadValue(f"{name} is outside {self.root}", "Move the image there, or give another image_root.")
        raise BadValue(f"there is no image {name} in {self.root}", self._remedy(path))

    def load(self, name: str, size: tuple[int, int] | None = None, frame: str = "upright") -> Image.Image:
        """The image as RGB, upright.

        Args:
            name: that was checked.
            size: width and height that the annotations were made for.
            frame: whether that is the image upright or as it is stored.

        Raises:
            BadValue: a link leads out of the folder, it cannot be decoded, or it has another size.
        """
        path = self.inside(name)
        try:
            image = load_image(path)
            if size is not None and (image.size != size or frame != "upright"):
                self._check_size(name, path, image.size, size, frame)
        except BadImage as error:
            raise BadValue(str(error)) from error
        return image

    def inside(self, name: str) -> Path:
        """The file of a name that was checked. Raises BadValue for a link out of the folder."""
        path = (self.root / name).resolve()
        if not path.is_relative_to(self.root.resolve()):
            raise BadValue(f"{name} is a link out of {self.root}", _LINK)
        return path

    def _check_size(self, name: str, path: Path, upright: tuple[int, int], size: tuple[int, int], frame: str) -> None:
        stored, orientation = stored_size(path)
        other, mine = (stored, upright) if frame == "upright" else (upright, stored)
        if size == mine:
            return
        remedy = "Give the image that was annotated, or fix width and height."
        if size == other and orientation != 1:
            what = "as it is stored" if frame == "upright" else "upright"
            option = "stored" if frame == "upright" else "upright"
            remedy = f"EXIF turns it, and they are for the image {what}: give the option orientation: {option}."
        told = f"{name} is {mine[0]}x{mine[1]} pixels, and its annotations are for {size[0]}x{size[1]}"
        raise BadValue(told, remedy)

    def _remedy(self, path: PurePosixPath) -> str:
        """What to do about a file that is not there: perhaps it is written in small letters, or in capitals."""
        for place in self._places:
            relative = self._relative(path, place)
            if relative is None:
                continue
            folder = self.root / relative.parent
            if folder not in self._folded:
                self._folded[folder] = {name.lower(): name for name in self._names(folder)}
            if other := self._folded[folder].get(path.name.lower()):
                return f"There is {other}: mind the case."
        return "Check image_root, or remove the entry."

    def _find(self, path: PurePosixPath) -> str | None:
        """The name of a file relative to the folder; None when there is none."""
        for place in self._places:
            relative = self._relative(path, place)
            if relative is not None and (found := self._spelled(relative)):
                return found
        return None

    def _relative(self, path: PurePosixPath, place: Path | None = None) -> PurePosixPath | None:
        """A path relative to the folder; None for one that leads out of it."""
        if not path.is_absolute() and ".." not in path.parts and place in (None, self.root):
            return path
        joined = Path(os.path.abspath((place or self.root) / path))
        for root in (Path(os.path.abspath(self.root)), self.root.resolve()):
            if joined.is_relative_to(root):
                return PurePosixPath(joined.relative_to(root).as_posix())
        return None

    def _spelled(self, path: PurePosixPath) -> str | None:
        """How the names of a path are spelled on this disk; None when it is not there."""
        parent = path.parent
        if not (self.root / parent).is_dir():
            above = self._spelled(parent) if parent != path else None
            if above is None:
                return None
            parent = PurePosixPath(above)
        names = self._names(self.root / parent)
        found = names.get(path.name) or names.get(unicodedata.normalize("NFC", path.name))
        return None if found is None else str(parent / found)

    def _names(self, folder: Path) -> dict[str, str]:
        """What lies in a folder, by its name and by that in Unicode's composed form."""
        if folder not in self._listed:
            there = os.listdir(folder) if folder.is_dir() else []
            self._listed[folder] = {unicodedata.normalize("NFC", name): name for name in there}
            self._listed[folder] |= {name: name for name in there}
        return self._listed[folder]
