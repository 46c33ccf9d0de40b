"""NLVR2 (sentences that are true or false of two images) and MaRVL (the same in five more languages)."""

from collections.abc import Iterable
from typing import Any, ClassVar

from openpali.data.files.annotations import BadValue
from openpali.data.files.dataset_files import json_line, json_lines
from openpali.data.sources.public.base import field
from openpali.data.sources.public.questions import TranslatedQuestions, name_of


class Nlvr2(TranslatedQuestions):
    """NLVR2 (Suhr et al. 2019): `images` are the left and the right one, the answer is `True` or `False`.

    With `languages` it is MaRVL (Liu et al. 2021), for evaluation: its sentences in these languages for every split,
    each with its language as `question_type`.
    """

    name = "nlvr2"
    translations = "MaRVL"
    known_languages = ("id", "sw", "ta", "tr", "zh")
    title = "NLVR2"
    address = "https://github.com/lil-lab/nlvr"
    layout = (
        "train.json, dev.json, test1.json: a JSON object a line",
        "images/train/0/ ... images/train/99/, dev/, test1/: images, which its authors give on request",
        "marvl/zh/annotations/marvl-zh.jsonl and marvl/zh/images/, ...: only for languages, from"
        " https://marvl-challenge.github.io",
    )
    splits: ClassVar[dict[str, str]] = {"train": "train", "validation": "dev", "test": "test1"}
    hub_columns: ClassVar[dict[str, str | list[str]]] = {
        "image": ["left_image", "right_image"],
        "question": "sentence",
        "answers": "label",
    }

    def entries(self, split: str) -> Iterable[tuple[str, Any]]:
        """Unparsed lines of JSON."""
        if not self.languages:
            for number, line in json_lines(self.find(f"{split}.json", f"data/{split}.json")):
                yield f"{split}.json:{number}", (line, split, "")
        for language in self.languages:
            path = self.find(f"marvl/{language}/annotations/marvl-{language}.jsonl", f"marvl-{language}.jsonl")
            for number, line in json_lines(path):
                yield f"{path.name}:{number}", (line, "marvl", language)

    def folder_row(self, entry: Any) -> dict[str, Any] | None:
        """The sentence, its two images, and whether it is true."""
        line, split, language = entry
        content = json_line(line)
        sentence = field(content, "caption" if language else "sentence")
        images = self._of_concept(content, language) if language else self._pair(content, split)
        kind = {"question_type": language} if language else {}
        return {"images": images, "question": sentence, "answers": [truth(content.get("label"))]} | kind

    def hub_row(self, entry: dict[str, Any]) -> dict[str, Any] | None:
        """The row of a copy, whose labels may be numbers."""
        return entry | {"answers": [truth(entry.get("answers"))]}

    def _pair(self, content: dict[str, Any], split: str) -> list[str]:
        """`dev-850-0-0` is a sentence about `dev-850-0-img0.png` and `dev-850-0-img1.png`."""
        start = field(content, "identifier").rpartition("-")[0]
        folder = f"images/train/{name_of(content, 'directory', 0)}" if split == "train" else split
        return [self.image(f"{folder}/{start}-img{side}.png", f"{split}/{start}-img{side}.png") for side in (0, 1)]

    def _of_concept(self, content: dict[str, Any], language: str) -> list[str]:
        folder = f"marvl/{language}/images/{field(content, 'concept')}"
        return [self.image(f"{folder}/{field(content, side)}") for side in ("left_img", "right_img")]


def truth(label: Any) -> str:
    """`True` or `False`. Raises BadValue for any other label."""
    word = {"true": "True", "1": "True", "false": "False", "0": "False"}.get(str(label).strip().lower())
    if word is None:
        raise BadValue(f"its label {label!r} is neither True nor False", "Fix or remove the entry.")
    return word
