"""Pascal VOC's layout: an XML file of boxes for each image, in `Annotations` or beside the images."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from openpali.data.custom.readers import IMAGE_ENDS, RawData, declared_size
from openpali.data.custom.rows import REGION_KINDS, ImageOnDisk, Row, RowObject, UnreadableRecord, add_problem
from openpali.data.files.annotations import BadValue
from openpali.data.files.image_folder import ImageFolder
from openpali.data.files.run_folders import is_hidden
from openpali.data.files.text_encoding import read_text
from openpali.data.records import BadRecord

# a split to the lists of ImageSets/Main that may hold it, in order of preference
_LISTS = {"train": ("train", "trainval"), "validation": ("val", "valid"), "test": ("test",)}
_EDGES = ("xmin", "ymin", "xmax", "ymax")
_EXPORT = "Export COCO JSON or YOLO polygons, or take --kind detect."


def find_voc(path: Path, image_root: Path | None, kind: str) -> dict[str, Callable[[], RawData]]:
    """A reader for each list of `ImageSets/Main`, or a single one under ""; none for a folder of another layout.

    Raises:
        BadRecord: the kind needs more than boxes.
    """
    folder = _xml_folder(path)
    if folder is None or kind not in REGION_KINDS:
        return {}
    if kind != "detect":
        raise BadRecord(str(path), "all", f"Pascal VOC has boxes, and nothing for {kind}", _EXPORT)
    sets = path / "ImageSets" / "Main"
    lists = {split: [sets / f"{name}.txt" for name in names] for split, names in _LISTS.items()}
    found = {split: next((one for one in files if one.is_file()), None) for split, files in lists.items()}
    if not found["train"]:
        return {"": partial(read_voc, path, folder, None, image_root)}
    return {split: partial(read_voc, path, folder, file, image_root) for split, file in found.items() if file}


def read_voc(path: Path, folder: Path, listed: Path | None, image_root: Path | None) -> RawData:
    """Rows of a folder of XML files, of those that a list names where it is given.

    Boxes are 1-based and hold their last pixel, as VOC defines them. An object that is `difficult` is a crowd: prompts
    of its image do not ask for its class.
    """
    images = _Images(path, folder, image_root)
    read = RawData([], layout="Pascal VOC")
    files = _listed(listed, folder) if listed else _all(folder)
    for file, missing in files:
        read.rows.append(_lost(missing) if missing else _row(file, images))
    if listed is None and (without := images.without(row.image for row in read.rows)):
        text = f"{path}: {len(without)} images have no XML file and are left out, the first is {without[0]}"
        read.notes.append(text)
    read.notes += _notes(read.rows, path)
    return read


def parse_xml(content: bytes) -> Element:
    """The root of an XML file. Entities are not expanded: a document type is refused.

    Raises:
        BadValue: it is not XML, or has a document type.
    """
    parser, builder = expat.ParserCreate(), TreeBuilder()
    parser.buffer_text = True

    def refuse(*_: Any) -> None:
        raise BadValue("it has a DOCTYPE, which may define entities", "Remove the line <!DOCTYPE ...>.")

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(content, True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        if isinstance(error, BadValue):
            raise
        raise BadValue(f"it is not XML ({error})", "Fix it, or export it again.") from error
    return builder.close()


class _Images:
    """The images of XML files: of the same name, else the one that the XML names."""

    def __init__(self, path: Path, folder: Path, image_root: Path | None) -> None:
        beside = [path / "JPEGImages", path / "images", path / "Images", path, folder]
        if image_root:
            beside += [image_root, image_root / "JPEGImages", image_root / "images"]
        self._places = [place for place in dict.fromkeys(beside) if place.is_dir()]
        root = image_root or path
        self._folder = ImageFolder(root, *self._places)
        self._stems: dict[str, Path] = {}
        for place in reversed(self._places):
            names = sorted(one.name for one in place.iterdir() if one.suffix.lower() in IMAGE_ENDS)
            self._stems |= {Path(name).stem: place / name for name in names if not is_hidden(name)}
        self._root = root.resolve()

    def of(self, stem: str, name: str) -> ImageOnDisk | BadValue:
        """The image of an XML file, or the reason why there is none."""
        found = self._stems.get(stem)
        if found is None:
            try:
                found = self._folder.root / self._folder.check(name or f"{stem}.jpg")
            except BadValue as bad:
                return BadValue(bad.reason, f"{bad.remedy} See --image_root.")
        if not found.resolve().is_relative_to(self._root):
            return BadValue(f"{found.name} is outside {self._root}", "Give an --image_root that holds both.")
        return ImageOnDisk(found, found.name)

    def without(self, used: Iterator[Any]) -> list[str]:
        """Names of images that are none of those in use."""
        paths = {image.path for image in used if isinstance(image, ImageOnDisk)}
        return sorted(path.name for path in self._stems.values() if path not in paths)


def _xml_folder(path: Path) -> Path | None:
    named = [one for one in sorted(path.iterdir()) if one.is_dir() and one.name.lower() == "annotations"]
    return next((one for one in [*named, path] if any(one.glob("*.xml"))), None)


def _all(folder: Path) -> Iterator[tuple[Path, None]]:
    yield from ((one, None) for one in sorted(folder.glob("*.xml")) if not is_hidden(one.name))


def _listed(file: Path, folder: Path) -> Iterator[tuple[Path, BadRecord | None]]:
    """The XML files that a list names, one a line; a number may follow the name."""
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if not (words := line.split()):
            continue
        name = words[0].removesuffix(".xml")
        xml = folder / f"{name}.xml"
        bad = None
        if len(Path(name).parts) > 1 or not xml.is_file():
            bad = BadRecord(str(file), number, f"there is no {folder.name}/{name}.xml", "Add it, or remove the line.")
        yield xml, bad


def _lost(bad: BadRecord) -> Row:
    return Row(bad.file, bad.record, UnreadableRecord(bad.reason, bad.remedy))


def _row(file: Path, images: _Images) -> Row:
    try:
        root = parse_xml(file.read_bytes())
    except BadValue as bad:
        return Row(str(file), "all", UnreadableRecord(bad.reason, bad.remedy))
    row = Row(str(file), "all", images.of(file.stem, _text(root, "filename")))
    row.declared = declared_size({side: _text(root, f"size/{side}") for side in ("width", "height")})
    for number, item in enumerate(root.findall("object"), 1):
        record = f"object {number}"
        try:
            box = _box(item)
        except BadValue as bad:
            add_problem(row, "box", bad.reason, bad.remedy, record)
            continue
        crowd = _text(item, "difficult") in ("1", "true", "True")
        row.objects.append(RowObject(_text(item, "name"), box, None, record, crowd))
    return row


def _box(item: Element) -> list[float]:
    """Left, top, width and height in pixels, of 1-based first and last pixels. Raises BadValue."""
    found = [_text(item, f"bndbox/{edge}") for edge in _EDGES]
    try:
        left, top, right, bottom = map(float, found)
    except ValueError as error:
        reason = f"its bndbox has {', '.join(map('{} {!r}'.format, _EDGES, found))}"
        raise BadValue(reason, "Give four numbers.") from error
    if not (left <= right and top <= bottom):
        reason = f"its bndbox ends before it begins: {', '.join(map('{} {}'.format, _EDGES, found))}"
        raise BadValue(reason, "Exchange them, or remove the object.")
    return [left - 1, top - 1, right - left + 1, bottom - top + 1]


def _notes(rows: Sequence[Row], path: Path) -> Iterator[str]:
    items = [(row, item) for row in rows for item in row.objects]
    if difficult := sum(item.crowd for _, item in items):
        yield f"{path}: {difficult} objects are difficult; prompts of their images do not ask for their classes"
    zero = [(row, item) for row, item in items if min(item.box[:2]) == -1]
    if zero:
        where = f"{zero[0][0].file}:{zero[0][1].record}"
        text = f"{len(zero)} boxes begin at 0, the first is {where}. VOC counts pixels from 1, and boxes are read so"
        yield f"{text}. If these count from 0, all are a pixel off."


def _text(element: Element, path: str) -> str:
    return (element.findtext(path) or "").strip()
