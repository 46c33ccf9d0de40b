"""Screens of Android apps, the images of RICO: Screen2Words (screens) and WidgetCap (elements of screens)."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from openpali.data.example import Box
from openpali.data.files.annotations import BadValue, read_json
from openpali.data.images.open_image import BadImage, image_size
from openpali.data.records import BadRecord
from openpali.data.sources.public.base import PublicSource, field
from openpali.data.sources.public.captions import PublicCaptions, checked_texts

_RICO = "http://www.interactionmining.org/rico.html (UI Screenshots and View Hierarchies: unique_uis.tar.gz)"
_CANVAS_HEIGHT = 2560
"""Height in pixels of RICO's view hierarchies, for images of any size."""


class Screen2Words(PublicCaptions):
    """Summaries of screens (Wang et al. 2021): 15,743 screens for training, with five sentences each."""

    name = "screen2words"
    title = "Screen2Words"
    address = f"https://github.com/google-research-datasets/screen2words and {_RICO}"
    layout = ("screen_summaries.csv", "split/{train,dev,test}_screens.txt", "combined/10.jpg ...")
    splits = {"train": "train", "validation": "dev", "test": "test"}

    def entries(self, split: str) -> Iterable[tuple[str, Any]]:
        """The screens of a split, in the order of its list."""
        texts: dict[str, list[str]] = {}
        for _, entry in table(self.find("screen_summaries.csv"), ("screenId", "summary")):
            texts.setdefault(entry["screenId"], []).append(entry["summary"])
        for screen in lines(self.find(f"split/{split}_screens.txt")):
            yield screen, {"screen": screen, "captions": texts.get(screen, [])}

    def paths_and_captions(self, entry: Any) -> tuple[Sequence[str], Any]:
        """RICO's archive unpacks into `combined`."""
        return (f"combined/{entry['screen']}.jpg", f"{entry['screen']}.jpg"), entry["captions"]


class WidgetCap(PublicSource):
    """Buttons, fields and images of a screen with their purpose (Li et al. 2020), one in each record.

    A record holds `id`, `image` and `objects` (one), with `box`, `sentences` and `names` as in other sources.
    """

    name = "widgetcap"
    title = "WidgetCap"
    address = f"https://github.com/google-research-datasets/widget-caption and {_RICO}"
    layout = ("widget_captions.csv", "split/{train,dev,test}.txt", "combined/10.jpg, combined/10.json ...")
    splits = {"train": "train", "validation": "dev", "test": "test"}
    hub_columns = {"image": "image", "box": "bbox", "captions": "captions"}

    def entries(self, split: str) -> Iterable[tuple[str, Any]]:
        """The widgets of the screens of a split."""
        screens = set(lines(self.find(f"split/{split}.txt", f"{split}.txt")))
        self._last: tuple[str, Any] = ("", None)
        for _, entry in table(self.find("widget_captions.csv"), ("screenId", "nodeId", "captions")):
            if entry["screenId"] in screens:
                yield f"{entry['screenId']}-{entry['nodeId']}", entry

    def row(self, entry: Any) -> dict[str, Any] | None:
        """The image, the box of the widget in [0, 1], and its captions."""
        if self.hub is not None:
            texts = checked_texts(field(entry, "captions", (str, list)))
            return {"texts": texts, "box": normalised(field(entry, "box", list), 1.0, 1.0)}
        screen = entry["screenId"]
        image = self.image(f"combined/{screen}.jpg", f"{screen}.jpg")
        try:
            width, height = image_size(self.image_root / image)
        except BadImage as error:
            raise BadValue(str(error)) from error
        bounds = node_bounds(self._read_hierarchy(image), entry["nodeId"])
        # RICO scales screens to one height
        box = normalised(bounds, _CANVAS_HEIGHT * width / height, _CANVAS_HEIGHT)
        return {"texts": checked_texts(entry["captions"].split("|")), "box": box, "images": [image]}

    def record(self, row: dict[str, Any], images: list[Any]) -> dict[str, Any]:
        """The screen and its widget."""
        texts, (x0, y0, x1, y1) = row["texts"], row["box"]
        item = {"box": Box(x0, y0, x1, y1, texts[0]), "names": {"en": texts[0]}, "sentences": {"en": texts}}
        return {"image": images[0], "objects": [item | {"concept": "widget"}]}

    def _read_hierarchy(self, image: str) -> Any:
        """The view hierarchy beside an image, cached for the next widget of the same screen."""
        if self._last[0] != image:
            try:
                self._last = image, read_json((self.image_root / image).with_suffix(".json"))
            except BadRecord as bad:
                raise BadValue(f"{bad.file}: {bad.reason}", "Unpack RICO's archive whole.") from bad
        return self._last[1]


def node_bounds(hierarchy: Any, node: str) -> list[Any]:
    """Left, top, right and bottom of a node such as `0.0.3`: the root, its first child, the fourth child of that.

    Raises:
        BadValue: there is no such node.
    """
    try:
        found = hierarchy["activity"]["root"]
        for child in node.split(".")[1:]:
            found = found["children"][int(child)]
        return list(found["bounds"])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        reason = f"the view hierarchy of its screen has no node {node}"
        raise BadValue(reason, "Take the hierarchies of RICO's unique_uis.tar.gz.") from error


def normalised(bounds: Any, width: float, height: float) -> list[float]:
    """Left, top, right and bottom in [0, 1], clipped to the screen. Raises BadValue for an empty box."""
    try:
        x0, y0, x1, y1 = (float(value) for value in bounds)
    except (TypeError, ValueError) as error:
        raise BadValue(f"its bounds {bounds} are not four numbers", "Remove the entry.") from error
    box = [min(max(value, 0.0), 1.0) for value in (x0 / width, y0 / height, x1 / width, y1 / height)]
    if not (box[0] < box[2] and box[1] < box[3]):
        raise BadValue(f"its bounds {bounds} lie outside the screen", "Remove the entry.")
    return box


def table(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Number from 1 and cells of every row of a CSV file.

    Raises:
        BadRecord: a column is missing, or it is not CSV.
    """
    with path.open(encoding="utf-8", newline="") as file:
        try:
            reader = csv.DictReader(file, strict=True)
            if missing := [column for column in columns if column not in (reader.fieldnames or ())]:
                raise BadRecord(str(path), "all", f"it has no column {missing[0]}", "Download the file again.")
            for number, entry in enumerate(reader, 1):
                yield number, {column: entry[column] or "" for column in columns}
        except (csv.Error, UnicodeDecodeError) as error:
            raise BadRecord(str(path), "all", f"it is not CSV ({error})", "Download the file again.") from error


def lines(path: Path) -> list[str]:
    """The distinct non-blank lines of a file."""
    return list(dict.fromkeys(line.strip() for line in path.read_text("utf-8-sig").splitlines() if line.strip()))
