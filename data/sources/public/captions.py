"""Captions of images: COCO in Karpathy's split, NoCaps and TextCaps, and their base class."""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from openpali.data.files.annotations import BadValue
from openpali.data.sources.public.base import PublicSource, field, held_out


class PublicCaptions(PublicSource):
    """Images with captions: a record holds `id`, `image` (PIL RGB) and `captions` (`{language: [texts]}`)."""

    hub_columns: ClassVar[dict[str, str | list[str]]] = {"image": "image", "captions": "captions"}

    @abstractmethod
    def paths_and_captions(self, entry: Any) -> tuple[Sequence[str], Any]:
        """Possible paths of an entry's image, relative to `image_root`, and its captions. Raises BadValue."""

    def row(self, entry: Any) -> dict[str, Any] | None:
        """English captions, and the path of the image."""
        if self.hub is not None:
            return {"captions": {"en": checked_texts(field(entry, "captions", (str, list)))}}
        places, captions = self.paths_and_captions(entry)
        return {"captions": {"en": checked_texts(captions)}, "images": [self.image(*places)]}


class KarpathyCoco(PublicCaptions):
    """COCO captions in the split of Karpathy and Li (2015); `train` includes the file's `restval`, as usual.

    113,287 images for training, 5,000 for validation and 5,000 for test, with five captions each.
    """

    name = "cococap"
    title = "COCO captions"
    address = (
        "http://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip (dataset_coco.json) and"
        " https://cocodataset.org/#download (2014 Train images, 2014 Val images)"
    )
    layout = ("dataset_coco.json", "train2014/COCO_train2014_000000000009.jpg ...", "val2014/...")
    splits = {"train": "train", "validation": "val", "test": "test"}

    def entries(self, split: str) -> Iterable[tuple[str, Any]]:
        """The images of a split."""
        wanted = ("train", "restval") if split == "train" else (split,)
        for number, entry in enumerate(self.read_list("dataset_coco.json", key="images")):
            if not isinstance(entry, dict) or entry.get("split") in wanted:
                yield entry_name(entry, number, "cocoid", "imgid"), entry

    def paths_and_captions(self, entry: Any) -> tuple[Sequence[str], Any]:
        """The raw `sentences`."""
        texts = [field(sentence, "raw") for sentence in field(entry, "sentences", list)]
        return (f"{field(entry, 'filepath')}/{field(entry, 'filename')}",), texts


class NoCaps(PublicCaptions):
    """NoCaps (Agrawal et al. 2019): images of objects that are not in COCO's captions, for evaluation only.

    4,500 images with ten captions each. The test split's captions are not public.
    """

    name = "nocaps"
    title = "NoCaps"
    address = "https://nocaps.org/download (captions) and Open Images (validation images)"
    layout = ("nocaps_val_4500_captions.json", "validation/0013ea2087020901.jpg ...")
    splits = {"validation": "val", "test": "val"}

    def entries(self, split: str) -> Iterable[tuple[str, Any]]:
        """Images, each with its captions from the annotations."""
        texts = captions_by("image_id", self.read_list("nocaps_val_4500_captions.json", key="annotations"))
        for number, image in enumerate(self.read_list("nocaps_val_4500_captions.json", key="images")):
            yield entry_name(image, number, "id"), with_captions(image, "id", texts)

    def paths_and_captions(self, entry: Any) -> tuple[Sequence[str], Any]:
        """Open Images' archive unpacks into `validation`."""
        file = field(entry, "file_name")
        return (f"validation/{file}", f"Images/validation/{file}", file), entry["captions"]


class TextCaps(PublicCaptions):
    """TextCaps (Sidorov et al. 2020): captions that need the text on the image.

    The test captions are not public, and scores are published on the validation split. It is `test` here, and one
    image in twenty of the train split is in `validation`.
    """

    name = "textcaps"
    title = "TextCaps"
    address = "https://textvqa.org/textcaps/dataset"
    layout = ("TextCaps_0.1_train.json", "TextCaps_0.1_val.json", "train_images/0000599864fd15b3.jpg ...")
    splits = {"train": "train", "validation": "held_out", "test": "val"}

    def entries(self, split: str) -> Iterable[tuple[str, Any]]:
        """Images; the file has an entry for each caption."""
        file = "TextCaps_0.1_val.json" if split == "val" else "TextCaps_0.1_train.json"
        texts: dict[str, list[Any]] = {}
        for number, entry in enumerate(self.read_list(file, key="data")):
            name = entry_name(entry, number, "image_id")
            texts.setdefault(name, []).append(entry.get("caption_str") if isinstance(entry, dict) else None)
        for name, captions in texts.items():
            if split == "val" or held_out(name) == (split == "held_out"):
                yield name, {"image_id": name, "captions": captions}

    def paths_and_captions(self, entry: Any) -> tuple[Sequence[str], Any]:
        """The images of both splits lie in one folder."""
        return (f"train_images/{entry['image_id']}.jpg",), entry["captions"]


def entry_name(entry: Any, number: int, *keys: str) -> str:
    """The name of an entry in messages and ids: the first of these keys that it has, else its place from 0."""
    for key in keys:
        if isinstance(entry, dict) and isinstance(entry.get(key), int | str):
            return str(entry[key])
    return f"entry {number}"


def captions_by(key: str, entries: Iterable[Any]) -> dict[Any, list[Any]]:
    """The `caption` of each entry, grouped by another of its fields."""
    texts: dict[Any, list[Any]] = {}
    for entry in entries:
        if isinstance(entry, dict):
            texts.setdefault(entry.get(key), []).append(entry.get("caption"))
    return texts


def with_captions(entry: Any, key: str, texts: dict[Any, list[Any]]) -> Any:
    """The entry with the `captions` that belong to one of its fields."""
    return entry | {"captions": texts.get(entry.get(key), [])} if isinstance(entry, dict) else entry


def checked_texts(value: Any, kind: str = "caption") -> list[str]:
    """Non-empty texts with single spaces. Raises BadValue for no text or another type."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise BadValue(f"its {kind}s are not texts", "Fix or remove the entry.")
    texts = [" ".join(text.split()) for text in texts]
    if not any(texts):
        raise BadValue(f"it has no {kind}", "Remove the entry.")
    return [text for text in texts if text]
