"""GQA (questions generated from scene graphs) and xGQA (its test questions in eight languages)."""

from collections.abc import Iterable
from typing import Any, ClassVar

from openpali.data.files.annotations import read_json
from openpali.data.records import BadRecord
from openpali.data.sources.public.base import field
from openpali.data.sources.public.questions import TranslatedQuestions


class Gqa(TranslatedQuestions):
    """GQA (Hudson and Manning 2019), the balanced questions; `test` is its testdev.

    With `languages` it is xGQA (Pfeiffer et al. 2022): the testdev questions in these languages for every split, each
    with its language as `question_type`. The answers are English.
    """

    name = "gqa"
    translations = "xGQA"
    known_languages = ("en", "de", "pt", "ru", "id", "bn", "ko", "zh")
    title = "GQA"
    address = "https://cs.stanford.edu/people/dorarad/gqa/download.html"
    layout = (
        "train_balanced_questions.json, val_balanced_questions.json, testdev_balanced_questions.json",
        "images/: images",
        "testdev_balanced_questions_de.json, ...: only for languages, from https://github.com/adapter-hub/xGQA",
    )
    splits: ClassVar[dict[str, str]] = {"train": "train", "validation": "val", "test": "testdev"}
    hub_columns: ClassVar[dict[str, str | list[str]]] = {"image": "image", "question": "question", "answers": "answer"}

    def entries(self, split: str) -> Iterable[tuple[str, Any]]:
        """Questions by id, in each language."""
        if not self.languages:
            yield from self._questions(None, f"{split}_balanced_questions.json")
        for language in self.languages:
            name = f"testdev_balanced_questions_{language}.json"
            yield from self._questions(language, name, f"zero_shot/{name}", f"data/zero_shot/{name}")

    def _questions(self, language: str | None, *names: str) -> Iterable[tuple[str, Any]]:
        path = self.find(*(f"{folder}{name}" for name in names for folder in ("", "questions/")))
        content = read_json(path)
        if not isinstance(content, dict):
            raise BadRecord(str(path), "all", "it is not a JSON object of questions by id", "Download it again.")
        for id_, entry in content.items():
            yield (f"{id_}-{language}" if language else id_), (entry, language)

    def folder_row(self, entry: Any) -> dict[str, Any] | None:
        """The question, its answer, and as its type the language or the structure of the question."""
        question, language = entry
        types = question.get("types") if isinstance(question, dict) else None
        kind = types.get("structural") if isinstance(types, dict) else None
        return {
            "images": [self.image(f"images/{field(question, 'imageId')}.jpg", f"{question['imageId']}.jpg")],
            "question": field(question, "question"),
            "answers": [field(question, "answer")],
            "question_type": language or kind,
        }
