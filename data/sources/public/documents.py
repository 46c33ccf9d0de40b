"""DocVQA, InfographicVQA, ST-VQA, ChartQA and OCR-VQA: questions about text on images."""

import itertools
from collections.abc import Iterable
from typing import Any, ClassVar

from openpali.data.files.annotations import BadValue, read_json
from openpali.data.records import BadRecord
from openpali.data.sources.public.base import field, held_out
from openpali.data.sources.public.questions import QuestionSource, name_of

BOOK_SPLITS = {1: "train", 2: "val", 3: "test"}
"""Numbers of splits in OCR-VQA's file."""


class DocVqa(QuestionSource):
    """DocVQA (Mathew et al. 2021): scanned pages, with all correct answers."""

    name = "docvqa"
    title = "DocVQA"
    address = "https://rrc.cvc.uab.es/?ch=17 (Single Document Visual Question Answering)"
    layout = (
        "spdocvqa_qas/train_v1.0_withQT.json, spdocvqa_qas/val_v1.0_withQT.json",
        "spdocvqa_images/: images",
        "or, as it was before, train/train_v1.0.json and train/documents/, val/...",
    )

    def entries(self, split: str) -> Iterable[tuple[str, Any]]:
        """Entries of the list `data`."""
        names = [f"{split}_v1.0_withQT.json", f"{split}_v1.0.json"]
        files = [folder + name for folder in ("spdocvqa_qas/", f"{split}/", "") for name in names]
        return self.listed_entries(split, *files, id_key="questionId", key="data")

    def folder_row(self, entry: Any) -> dict[str, Any] | None:
        """The question and its answers."""
        image = field(entry, "image")
        bare = image.rpartition("/")[2]
        return {
            "images": [self.image(f"spdocvqa_images/{bare}", f"{entry['split']}/{image}", image)],
            "question": field(entry, "question"),
            "answers": field(entry, "answers", list),
        }


class InfographicVqa(QuestionSource):
    """InfographicVQA (Mathew et al. 2022).

    The order of an answer that is a list does not count: in evaluated splits, every order of up to five items is an
    answer, as in the official evaluation.
    """

    name = "infovqa"
    title = "InfographicVQA"
    address = "https://rrc.cvc.uab.es/?ch=17 (Infographics VQA)"
    layout = (
        "infographicsvqa_qas/infographicsVQA_train_v1.0.json",
        "infographicsvqa_qas/infographicsVQA_val_v1.0_withQT.json",
        "infographicsvqa_images/: images",
    )

    def entries(self, split: str) -> Iterable[tuple[str, Any]]:
        """Entries of the list `data`."""
        names = [f"infographicsVQA_{split}_v1.0{ending}.json" for ending in ("_withQT", "")]
        files = [folder + name for folder in ("infographicsvqa_qas/", "") for name in names]
        return self.listed_entries(split, *files, id_key="questionId", key="data")

    def folder_row(self, entry: Any) -> dict[str, Any] | None:
        """The question and its answers."""
        image = field(entry, "image_local_name")
        answers = field(entry, "answers", list)
        return {
            "images": [self.image(f"infographicsvqa_images/{image}", f"images/{image}")],
            "question": field(entry, "question"),
            "answers": answers if self.split == "train" else [order for answer in answers for order in orders(answer)],
        }


class StVqa(QuestionSource):
    """ST-VQA (Biten et al. 2019), the open task 3. One image in twenty of the train split is held out."""

    name = "stvqa"
    title = "ST-VQA"
    address = "https://rrc.cvc.uab.es/?ch=11"
    layout = (
        "train_task_3.json",
        "train_images/coco-text/, train_images/textvqa... as file_path says: images",
    )
    splits: ClassVar[dict[str, str]] = {"train": "train", "validation": "held out", "test": "held out"}

    def entries(self, split: str) -> Iterable[tuple[str, Any]]:
        """Entries of the list `data` whose images are in the split."""
        for number, entry in enumerate(self.read_list("train_task_3.json", key="data")):
            path = entry.get("file_path") if isinstance(entry, dict) else None
            if split == ("held out" if held_out(f"stvqa/{path}") else "train"):
                yield name_of(entry, "question_id", number), entry

    def folder_row(self, entry: Any) -> dict[str, Any] | None:
        """The question and its answers."""
        path = field(entry, "file_path")
        return {
            "images": [self.image(f"train_images/{path}", f"train_imgs/{path}", path)],
            "question": field(entry, "question"),
            "answers": field(entry, "answers", list),
        }


class ChartQa(QuestionSource):
    """ChartQA (Masry et al. 2022): questions of annotators (`human`), then generated ones (`augmented`).

    Their 7,398 and 20,901 training questions give PaliGemma's mixture weights.
    """

    name = "chartqa"
    title = "ChartQA"
    address = "https://huggingface.co/datasets/ahmed-masry/ChartQA (ChartQA Dataset.zip)"
    layout = (
        "train/train_human.json, train/train_augmented.json, train/png/: images",
        "val/..., test/...: likewise",
    )
    splits: ClassVar[dict[str, str]] = {"train": "train", "validation": "val", "test": "test"}
    hub_columns: ClassVar[dict[str, str | list[str]]] = {
        "image": "image",
        "question": "query",
        "answers": "label",
        "question_type": "human_or_machine",
    }

    def entries(self, split: str) -> Iterable[tuple[str, Any]]:
        """Entries of both lists."""
        for kind in ("human", "augmented"):
            for number, entry in enumerate(self.read_list(f"{split}/{split}_{kind}.json")):
                yield f"{kind}-{number}", (split, kind, entry)

    def folder_row(self, entry: Any) -> dict[str, Any] | None:
        """The question, its answer, and its kind."""
        split, kind, question = entry
        return {
            "images": [self.image(f"{split}/png/{field(question, 'imgname')}")],
            "question": field(question, "query"),
            "answers": [field(question, "label")],
            "question_type": kind,
        }

    def hub_row(self, entry: dict[str, Any]) -> dict[str, Any] | None:
        """The row of a copy, where the kind may be a number."""
        kinds = {"0": "human", "1": "augmented", "machine": "augmented"}
        kind = str(entry["question_type"])
        return entry | {"question_type": kinds.get(kind, kind)}


class OcrVqa(QuestionSource):
    """OCR-VQA (Mishra et al. 2019): questions about book covers, several for each cover."""

    name = "ocrvqa"
    title = "OCR-VQA"
    address = "https://ocr-vqa.github.io"
    layout = ("dataset.json", "images/: images, downloaded by the dataset's own loadDataset.py")
    splits: ClassVar[dict[str, str]] = {"train": "train", "validation": "val", "test": "test"}

    def entries(self, split: str) -> Iterable[tuple[str, Any]]:
        """All questions of the covers of a split."""
        path = self.find("dataset.json")
        content = read_json(path)
        if not isinstance(content, dict):
            raise BadRecord(str(path), "all", "it is not a JSON object of covers by id", "Download it again.")
        for id_, cover in content.items():
            if isinstance(cover, dict) and BOOK_SPLITS.get(cover.get("split", 0)) != split:
                continue
            questions = cover.get("questions") if isinstance(cover, dict) else None
            answers = cover.get("answers") if isinstance(cover, dict) else None
            if not isinstance(questions, list) or not isinstance(answers, list) or len(questions) != len(answers):
                yield id_, None
                continue
            image = id_ + ("." + str(cover.get("imageURL", "")).rpartition(".")[2])
            for number, (question, answer) in enumerate(zip(questions, answers)):
                yield f"{id_}-{number}", (id_, image, question, answer)

    def folder_row(self, entry: Any) -> dict[str, Any] | None:
        """The question and its answer."""
        if entry is None:
            raise BadValue("its questions and answers are not lists of one length", "Download the file again.")
        id_, image, question, answer = entry
        names = [f"images/{image}", f"images/{id_}.png", f"images/{id_}.jpg"]
        return {"images": [self.image(*names)], "question": question, "answers": [answer]}


def orders(answer: Any, most: int = 5) -> list[Any]:
    """A comma-separated list in every order; the answer alone if it is no list or a longer one."""
    things = answer.split(", ") if isinstance(answer, str) else []
    if not 1 < len(things) <= most:
        return [answer]
    return [", ".join(order) for order in itertools.permutations(things)]
