"""Objaverse Multiview: what is an object, of which several views are rendered?"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from openpali.data.files.annotations import BadValue
from openpali.data.files.dataset_files import json_line, json_lines
from openpali.data.sources import several
from openpali.data.sources.public.base import field
from openpali.data.sources.public.questions import QuestionSource

QUESTIONS = (
    "What is this?",
    "What type of object is this?",
    "What is in the image?",
    "Describe the object in the image",
)
"""The four prompts of Beyer et al. 2024, appendix G."""


class ObjaverseMultiview(QuestionSource):
    """Views of objects of Objaverse-LVIS with its verified categories (Kabra et al. 2024; Beyer et al. 2024, G).

    The papers' rendered views have no public layout that is known here. So this reads views of your own: a line of
    JSON for each object. A record is one question about one view; `question_type` is the object, for the metric
    `multiview`, which joins the answers of an object.
    """

    name = "objaverse_multiview"
    title = "Objaverse Multiview"
    address = (
        "https://objaverse.allenai.org (the categories are lvis-annotations.json.gz), render views of each object, and"
        " write a line for each object"
    )
    layout = (
        'objects.jsonl: {"id": "8476c4170df24cf5bbe6967222d1a42d", "category": "banana",'
        ' "views": ["views/8476c417/0.png", ...]}',
        "views/...: images",
    )
    splits: ClassVar[dict[str, str]] = {"train": "test", "validation": "test", "test": "test"}

    def __init__(
        self,
        path: str | Path | None = None,
        split: str = "test",
        image_root: str | Path | None = None,
        questions: str | list[str] | tuple[str, ...] = QUESTIONS,
    ) -> None:
        """Read and check the file; see `PublicSource`.

        Args:
            path: folder of `objects.jsonl`.
            split: `test`, the only one.
            image_root: folder of the views; by default `path`.
            questions: each is asked about every view.
        """
        self.questions = several(questions)
        if not self.questions:
            raise ValueError("questions: give at least one")
        super().__init__(path, split, image_root)

    def entries(self, split: str) -> Iterable[tuple[str, Any]]:
        """Every question about every view of an object, one object after the other."""
        for number, line in json_lines(self.find("objects.jsonl")):
            try:
                content = json_line(line)
                name, views = field(content, "id"), field(content, "views", list)
            except BadValue as bad:
                yield f"line {number}", bad
                continue
            for view, image in enumerate(views):
                for turn, question in enumerate(self.questions):
                    yield f"{name}-{view}-{turn}", (name, content.get("category"), image, question)

    def folder_row(self, entry: Any) -> dict[str, Any] | None:
        """The question about a view, and the category of the object."""
        if isinstance(entry, BadValue):
            raise entry
        name, category, image, question = entry
        if not isinstance(category, str) or not isinstance(image, str):
            raise BadValue('its "category" or one of its "views" is not a text', "Fix the line.")
        # LVIS writes bow_(weapon); models write bow
        words = category.replace("_", " ").strip()
        answers = list(dict.fromkeys([words, words.partition(" (")[0]]))
        return {"images": [self.image(image)], "question": question, "answers": answers, "question_type": name}
