"""Custom data as a source: COCO, YOLO, Pascal VOC, JSON lines, CSV, folders of classes, datasets of the Hub."""

from functools import partial
from typing import Any

from openpali.data.custom.dataset import custom_spec, read_custom
from openpali.data.custom.rows import REGION_KINDS, EncodedImage, Row, read_box, texts
from openpali.data.files.annotations import segmentation_mask
from openpali.data.images.open_image import BadImage, load_image
from openpali.data.images.orientation import UPRIGHT, turned_box, turned_mask
from openpali.data.masks.rle import LazyMask
from openpali.data.records import BadRecord


class CustomData:
    """Records of one split of custom data; images are decoded on access.

    A record holds `id`, `image` (PIL RGB), and by its kind `objects` and `crowds` as in `CocoInstances`, `captions`
    ({language: texts}), or `answers` (texts), with `question` for `vqa`. Images without an object stay, as negatives.

    Attributes:
        bad: the problem of each unusable record, of all splits.
        notes: messages for the user.
        classes: names of all classes, of all splits.
    """

    name = "custom"

    def __init__(
        self,
        path: str,
        kind: str,
        split: str = "train",
        image_root: str | None = None,
        columns: dict[str, str] | None = None,
        box_format: str = "xywh",
        label_offset: int = 0,
        classes: tuple[str, ...] | list[str] = (),
        validation_path: str | None = None,
        test_path: str | None = None,
        resplit: bool = False,
        language: str = "en",
        orientation: str = "upright",
        clip_boxes: bool = False,
    ) -> None:
        """Read and check all data, and take one split; see `CustomSpec`.

        Args:
            path: a file, a folder, or `hf:NAME`.
            kind: detect, segment, caption, vqa, classify or ocr.
            split: train, validation or test.
            image_root: folder of the images.
            columns: our names to those of the data.
            box_format: of the boxes.
            label_offset: added to numbers of classes.
            classes: their names.
            validation_path: separate data of that split.
            test_path: likewise.
            resplit: merge all splits, and split again.
            language: of captions and names.
            orientation: of the annotated images: `upright`, or as `stored`, before EXIF turns them.
            clip_boxes: clip boxes to their images, however far they reach outside.

        Raises:
            BadRecord: a file cannot be used, or no record of the split can.
            ValueError: an option is invalid.
        """
        options = {"image_root": image_root, "box_format": box_format, "label_offset": label_offset}
        options |= {"validation_path": validation_path, "test_path": test_path, "resplit": resplit}
        options |= {"orientation": orientation, "clip_boxes": clip_boxes}
        self.spec = custom_spec(path, kind, columns, classes, **options)
        found = read_custom(self.spec)
        splits = found.splits()
        if split not in splits:
            raise ValueError(f"split is one of {', '.join(splits)}, not {split!r}")
        self.language, self._rows = language, splits[split]
        self.bad = found.bad if split == "train" else []
        # of all splits, reported once
        self.notes = found.notes if split == "train" else []
        self.classes, self._labels = found.classes, found.labels
        if not self._rows:
            first = f" The first of its bad records: {found.bad[0]}" if found.bad else ""
            raise BadRecord(path, split, f"no record of this split can be used.{first}", "Give it some, or resplit.")

        if kind in REGION_KINDS and not self.classes:
            raise BadRecord(path, split, "no image has an object", "Give it annotations.")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)} of {self.spec.path}")
        row = self._rows[index]
        name = row.file if row.file.startswith("hf:") else row.file.replace("\\", "/").rsplit("/", 1)[-1]
        record = {"id": f"{name}:{row.record}", "image": self._load(row)}
        if self.spec.kind in REGION_KINDS:
            return record | self._regions(row)
        if self.spec.kind == "caption":
            return record | {"captions": {self.language: texts(row.answers)}}
        question = {"question": texts(row.question)[0]} if self.spec.kind == "vqa" else {}
        answers = self._labels(row) if self.spec.kind == "classify" else texts(row.answers)
        return record | question | {"answers": answers}

    def _load(self, row: Row) -> Any:
        image: Any = row.image
        return decoded(image, row)

    def _regions(self, row: Row) -> dict[str, Any]:
        assert row.size is not None
        width, height = row.size
        turn = row.turn if self.spec.orientation == "stored" else UPRIGHT
        objects, crowds = [], set()
        for item, label in zip(row.objects, self._labels(row), strict=True):
            if item.crowd:
                crowds.add(label)
                continue
            box = read_box(item.box, self.spec.box_format, row.size, label, self.spec.clip_boxes)
            found = item.segmentation
            mask = LazyMask(partial(segmentation_mask, found, height, width)) if found is not None else None
            place = {"box": turned_box(box, turn), "mask": turned_mask(mask, turn)}
            objects.append({"concept": label, "names": {self.language: label}} | place)
        return {"objects": objects, "crowds": sorted(crowds)}


def decoded(image: EncodedImage, row: Row) -> Any:
    """The image of a row. Raises BadRecord."""
    try:
        return load_image(image.content())
    except (OSError, BadImage) as error:
        raise BadRecord(row.file, row.record, f"{image.name}: {error}", "Fix or remove it.") from error
