"""A-OKVQA, AI2D and ScienceQA: multiple-choice questions."""

import ast
import csv
from collections.abc import Iterable
from typing import Any, ClassVar

from openpali.data.files.annotations import BadValue, read_json
from openpali.data.records import BadRecord
from openpali.data.sources.public.base import NO_IMAGE, field, held_out
from openpali.data.sources.public.questions import QuestionSource
from openpali.data.sources.public.replaced_letters import draw_letters, letters_of


class AOkVqa(QuestionSource):
    """A-OKVQA (Schwenk et al. 2022): ten answers, and four choices with the index of the correct one."""

    name = "aokvqa"
    title = "A-OKVQA"
    address = "https://allenai.org/project/a-okvqa"
    layout = (
        "aokvqa_v1p0_train.json, aokvqa_v1p0_val.json",
        "train2017/, val2017/: images, from https://cocodataset.org (or image_root: the folder that has them)",
    )
    hub_columns: ClassVar[dict[str, str | list[str]]] = {
        "image": "image",
        "question": "question",
        "answers": "direct_answers",
        "difficult": "difficult_direct_answer",
        "choices": "choices",
        "correct": "correct_choice_idx",
    }
    easy_alone: ClassVar[bool] = False

    def entries(self, split: str) -> Iterable[tuple[str, Any]]:
        """Entries of the file of a split."""
        return self.listed_entries(split, f"aokvqa_v1p0_{split}.json", id_key="question_id")

    def folder_row(self, entry: Any) -> dict[str, Any] | None:
        """The question, its answers and its choices."""
        number, split = field(entry, "image_id", int), field(entry, "split")
        return self._scored(
            {
                "images": [self.image(f"{split}2017/{number:012d}.jpg")],
                "question": field(entry, "question"),
                "answers": field(entry, "direct_answers", list),
                "choices": field(entry, "choices", list),
                "correct": field(entry, "correct_choice_idx", int),
            },
            entry.get("difficult_direct_answer"),
        )

    def hub_row(self, entry: dict[str, Any]) -> dict[str, Any] | None:
        """The row of a copy, where the answers may be the text of a Python list."""
        difficult, answers = entry.pop("difficult", None), entry["answers"]
        if isinstance(answers, str) and answers.startswith("["):
            try:
                answers = ast.literal_eval(answers)
            except (ValueError, SyntaxError) as error:
                raise BadValue(f"its answers are not a list ({error})", "Leave the row out of the copy.") from error
        return self._scored(entry | {"answers": answers}, difficult)

    def _scored(self, row: dict[str, Any], difficult: Any) -> dict[str, Any] | None:
        if self.easy_alone and self.split != "train" and difficult in (True, "True", "true"):
            return self.leave_out("too difficult without choices, so not scored")
        return row


class AOkVqaDirect(AOkVqa):
    """A-OKVQA for direct answers: its evaluation skips questions marked as too difficult."""

    name = "aokvqa_direct"
    easy_alone = True


class Ai2d(QuestionSource):
    """AI2D (Kembhavi et al. 2016): diagrams of school books.

    Questions about lettered parts need an image in which letters replace the words; it is drawn from the annotations.
    There is no validation split: one image in twenty of the train split is held out.
    """

    name = "ai2d"
    title = "AI2D"
    address = "https://allenai.org/data/diagrams"
    layout = (
        "images/0.png, ...; questions/0.png.json, ...; annotations/0.png.json, ...",
        "ai2d_test_ids.csv, from https://s3-us-east-2.amazonaws.com/prior-datasets/ai2d_test_ids.csv",
    )
    splits: ClassVar[dict[str, str]] = {"train": "train", "validation": "held out", "test": "test"}
    hub_columns: ClassVar[dict[str, str | list[str]]] = {
        "image": "image",
        "question": "question",
        "choices": "options",
        "correct": "answer",
    }

    def entries(self, split: str) -> Iterable[tuple[str, Any]]:
        """Questions of all diagrams of the split, each with its diagram."""
        with self.find("ai2d_test_ids.csv").open(encoding="utf-8-sig", newline="") as lines:
            tests = {row[0].strip() for row in csv.reader(lines) if row}
        for path in sorted(self.find("questions").glob("*.json")):
            number = path.name.split(".")[0]
            if split != ("test" if number in tests else "held out" if held_out(f"ai2d/{number}") else "train"):
                continue
            content = read_json(path)
            questions = content.get("questions") if isinstance(content, dict) else None
            if not isinstance(questions, dict):
                raise BadRecord(str(path), "all", 'it has no "questions"', "Download it again.")
            for place, (text, entry) in enumerate(questions.items()):
                yield f"{number}-{place}", (content.get("imageName", f"{number}.png"), text, entry)

    def folder_row(self, entry: Any) -> dict[str, Any] | None:
        """The question, its choices, and the letters to draw."""
        image, text, question = entry
        found = {
            "images": [self.image(f"images/{image}")],
            "question": text,
            "choices": field(question, "answerTexts", list),
            "correct": field(question, "correctAnswer", int),
        }
        if not question.get("abcLabel"):
            return found
        path = self.path / "annotations" / f"{image}.json"
        try:
            return found | {"letters": letters_of(read_json(path))}
        except BadRecord as bad:
            raise BadValue(f"{path.name} of annotations: {bad.reason}", "Download it again.") from bad

    def hub_row(self, entry: dict[str, Any]) -> dict[str, Any] | None:
        """The row of a copy, whose correct choice may be a text of digits."""
        correct = entry["correct"]
        return entry | {"correct": int(correct) if isinstance(correct, str) and correct.isdecimal() else correct}

    def record(self, row: dict[str, Any], images: list[Any]) -> dict[str, Any]:
        """The record, with the letters drawn on its image."""
        letters = row.pop("letters", [])
        return super().record(row, [draw_letters(image, letters) for image in images] if letters else images)


class ScienceQa(QuestionSource):
    """ScienceQA (Lu et al. 2022), the questions with an image; `training` tells the task to shuffle choices."""

    name = "science_qa"
    title = "ScienceQA"
    address = "https://scienceqa.github.io"
    layout = ("problems.json", "train/1/image.png, ..., val/, test/: images")
    splits: ClassVar[dict[str, str]] = {"train": "train", "validation": "val", "test": "test"}
    hub_columns: ClassVar[dict[str, str | list[str]]] = {
        "image": "image",
        "question": "question",
        "choices": "choices",
        "correct": "answer",
        "hint": "hint",
        "question_type": "subject",
    }

    def entries(self, split: str) -> Iterable[tuple[str, Any]]:
        """Problems of the split."""
        path = self.find("problems.json", "data/scienceqa/problems.json")
        content = read_json(path)
        if not isinstance(content, dict):
            raise BadRecord(str(path), "all", "it is not a JSON object of problems by number", "Download it again.")
        for id_, entry in content.items():
            if not isinstance(entry, dict) or entry.get("split") == split:
                yield id_, (id_, entry)

    def folder_row(self, entry: Any) -> dict[str, Any] | None:
        """The question, its choices and its hint."""
        id_, problem = entry
        question, split = field(problem, "question"), field(problem, "split")
        if not problem.get("image"):
            return self.leave_out(NO_IMAGE)
        return {
            "images": [self.image(f"{split}/{id_}/{problem['image']}")],
            "question": question,
            "choices": field(problem, "choices", list),
            "correct": field(problem, "answer", int),
            "hint": problem.get("hint"),
            "question_type": problem.get("subject"),
        }

    def record(self, row: dict[str, Any], images: list[Any]) -> dict[str, Any]:
        """The record, and whether it is from the train split."""
        return super().record(row, images) | {"training": self.split == "train"}
