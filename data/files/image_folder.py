"""A folder of images, and safe access to the images that an annotation file names."""

import os
import unicodedata
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from openpali.data.files.annotations import BadValue
from openpali.data.images.open_image import BadImage, load_image
from openpali.data.images.orientation import stored_size

_LONGEST = 1000  # characters of a path; a longer one is an image encoded as text
_LINK = "Copy the target of the link, or give an image_root that holds both."


class ImageFolder:
    """The images of a folder that names and links may not leave."""

    def __init__(self, root: Path, *places: Path) -> None:
        """Set the folders; each is listed once, on first use.

        Args:
            root: the folder.
            places: folders in `root` to which names may be relative, in order of preference; others are ignored.
                `root` by default.
        """
        self.root = root
        inside = root.resolve()
        self._places = [place for place in places if place.resolve().is_relative_to(inside)] or [root]
        self._listed: dict[Path, dict[str, str]] = {}
        self._folded: dict[Path, dict[str, str]] = {}

    def check(self, name: Any) -> str:
        """The name of an existing file, relative to the folder.

        Names match in any Unicode form (macOS writes "ä" as two characters) and with separators of Windows.

        Raises:
            BadValue: it is not a name, leads out of the folder, or there is no such file.
        """
        if not isinstance(name, str) or not name or "\0" in name:
            raise BadValue("its file_name is missing or not a text", "Give the image's path within image_root.")
        if name.startswith(("http://", "https://")):
            raise BadValue(f"{name} is an address on the web", "Download the image and give its path.")
        if name.startswith("data:") or len(name) > _LONGEST:
            raise BadValue(f"{name[:40]}... is not the name of a file", "Save the image as a file and give its path.")
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
            name: returned by `check`.
            size: width and height of the annotated image.
            frame: orientation of the annotated image, `upright` or `stored`.

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
        """The path of a checked name. Raises BadValue for a link out of the folder."""
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
            annotated = "as it is stored" if frame == "upright" else "upright"
            option = "stored" if frame == "upright" else "upright"
            remedy = f"EXIF turns it, and they are for the image {annotated}: give the option orientation: {option}."
        reason = f"{name} is {mine[0]}x{mine[1]} pixels, and its annotations are for {size[0]}x{size[1]}"
        raise BadValue(reason, remedy)

    def _remedy(self, path: PurePosixPath) -> str:
        """The remedy for a missing file: a name that differs only in case, if there is one."""
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
        """A path as spelled on this disk; None when it does not exist."""
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
        """Names in a folder, by themselves and by their composed Unicode form."""
        if folder not in self._listed:
            there = os.listdir(folder) if folder.is_dir() else []
            self._listed[folder] = {unicodedata.normalize("NFC", name): name for name in there}
            self._listed[folder] |= {name: name for name in there}
        return self._listed[folder]
