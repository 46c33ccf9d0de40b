"""Base of public datasets of questions: a question, its answers, and optional choices."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from openpali.data.files.annotations import BadValue, is_whole
from openpali.data.sources import several
from openpali.data.sources.public.base import PublicSource


class QuestionSource(PublicSource):
    """Records of questions.

    A record holds `id`, `image` (PIL RGB) or `images`, `question`, `answers` (of all annotators, with repeats), and
    where the dataset has them `question_type`, `choices` (texts), `correct` (index of the correct choice) and `hint`.
    """

    hub_columns: ClassVar[dict[str, str | list[str]]] = {
        "image": "image",
        "question": "question",
        "answers": "answers",
    }

    @abstractmethod
    def folder_row(self, entry: Any) -> dict[str, Any] | None:
        """The row of an entry of the dataset's folder; None leaves it out. Raises BadValue."""

    def hub_row(self, entry: dict[str, Any]) -> dict[str, Any] | None:
        """The row of an entry of a Hub copy, a dict of the fields of `columns`. Raises BadValue."""
        return dict(entry)

    def listed_entries(
        self, split: str, *files: str, id_key: str, key: str | None = None
    ) -> Iterable[tuple[str, Any]]:
        """Entries of the list in the first of some JSON files, each with its split.

        Args:
            split: the dataset's own name.
            files: paths in the dataset's folder.
            id_key: key of an entry's id.
            key: of the list in the file, if the file is an object.
        """
        for number, entry in enumerate(self.read_list(*files, key=key)):
            yield name_of(entry, id_key, number), with_split(entry, split)

    def row(self, entry: Any) -> dict[str, Any] | None:
        """The row of an entry, checked."""
        found = self.folder_row(entry) if self.hub is None else self.hub_row(entry)
        return found and checked(found)


class TranslatedQuestions(QuestionSource):
    """Questions with translations for evaluation.

    Attributes:
        translations: name of the translated dataset.
        known_languages: of the translations.
    """

    translations: ClassVar[str]
    known_languages: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        path: str | Path | None = None,
        split: str = "train",
        image_root: str | Path | None = None,
        hub: str | None = None,
        hub_config: str | None = None,
        hub_splits: dict[str, str] | None = None,
        columns: dict[str, str | list[str]] | None = None,
        languages: str | Sequence[str] = (),
    ) -> None:
        """Read and check a split; see `PublicSource`.

        Args:
            path: folder of the dataset.
            split: `train`, `validation` or `test`.
            image_root: folder of the images.
            hub: name of a copy on the Hub.
            hub_config: of the copy.
            hub_splits: of the copy.
            columns: of the copy.
            languages: of the translated questions.

        Raises:
            ValueError: an unknown language.
        """
        self.languages = several(languages)
        if unknown := [language for language in self.languages if language not in self.known_languages]:
            raise ValueError(
                f"languages: {self.translations} has no {unknown[0]!r}; there are {', '.join(self.known_languages)}"
            )
        super().__init__(path, split, image_root, hub, hub_config, hub_splits, columns)


def checked(row: dict[str, Any]) -> dict[str, Any]:
    """The row with question and answers as texts, without empty fields.

    Raises:
        BadValue: there is no question or no answer, or the correct choice is out of range.
    """
    question = row.get("question")
    if not isinstance(question, str) or not question.strip():
        raise BadValue("it has no question", "Fix or remove the entry.")
    row = row | {"question": question.strip()}
    if "choices" in row:
        choices, correct = texts(row["choices"]), row.get("correct")
        if not is_whole(correct) or not 0 <= correct < len(choices):
            raise BadValue(f"its correct choice {correct!r} is not one of {len(choices)} choices", "Fix the entry.")
        row |= {"choices": choices, "answers": row.get("answers") or [choices[correct]]}
    answers = texts(row.get("answers"))
    if not any(answer.strip() for answer in answers):
        raise BadValue("it has no answer", "Use a split with public answers, or remove the entry.")
    kept = {key: value for key, value in row.items() if value not in (None, "")}
    return kept | {"answers": answers}


def texts(value: Any) -> list[str]:
    """The texts of a text, a number, or a list of these or of dicts with `answer`.

    Raises:
        BadValue: another type.
    """
    values = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    # dict, not Mapping: there are millions of them
    values = [item.get("answer") if isinstance(item, dict) else item for item in values if item is not None]
    for item in values:
        if not isinstance(item, str | int | float) or isinstance(item, bool):
            raise BadValue(f"its answer {item!r} is not a text", "Fix or remove the entry.")
    return [str(item) for item in values]


def name_of(entry: Any, key: str, number: int) -> str:
    """The name of an entry in messages and predictions: its id, else its place from 0."""
    value = entry.get(key) if isinstance(entry, Mapping) else None
    return str(value) if isinstance(value, str | int) and str(value) else f"number {number}"


def with_split(entry: Any, split: str) -> Any:
    """The entry with the name of its split, with which paths of images begin in some datasets."""
    return {**entry, "split": split} if isinstance(entry, Mapping) else entry
