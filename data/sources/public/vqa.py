"""VQAv2, OK-VQA, TextVQA and VizWiz: questions with ten answers each."""

from collections.abc import Iterable
from typing import Any, ClassVar

from openpali.data.files.annotations import BadValue, read_json
from openpali.data.files.dataset_files import listed
from openpali.data.sources.public.base import field
from openpali.data.sources.public.questions import QuestionSource, name_of, with_split

_COCO = "train2014/ and val2014/: images, from https://cocodataset.org (or image_root: the folder that has them)"


class Vqav2(QuestionSource):
    """VQAv2 (Goyal et al. 2017): questions in one file, answers in another, on COCO's images of 2014."""

    name = "vqav2"
    title = "VQAv2"
    address = "https://visualqa.org/download.html"
    layout = (
        "v2_OpenEnded_mscoco_train2014_questions.json, v2_OpenEnded_mscoco_val2014_questions.json",
        "v2_mscoco_train2014_annotations.json, v2_mscoco_val2014_annotations.json",
        _COCO,
    )
    splits: ClassVar[dict[str, str]] = {"train": "train2014", "validation": "val2014", "test": "val2014"}
    questions: ClassVar[str] = "v2_OpenEnded_mscoco_{}_questions.json"
    annotations: ClassVar[str] = "v2_mscoco_{}_annotations.json"

    def entries(self, split: str) -> Iterable[tuple[str, Any]]:
        """Questions with their annotations."""
        entries = self.read_list(self.questions.format(split), key="questions")
        path = self.find(self.annotations.format(split))
        content = read_json(path)
        self.types = content.get("question_types") if isinstance(content, dict) else None
        annotations = {
            annotation.get("question_id"): annotation
            for annotation in listed(content, "annotations", path)
            if isinstance(annotation, dict)
        }
        for number, entry in enumerate(entries):
            annotation = annotations.get(entry.get("question_id")) if isinstance(entry, dict) else None
            yield name_of(entry, "question_id", number), (with_split(entry, split), annotation)

    def folder_row(self, entry: Any) -> dict[str, Any] | None:
        """The question, the ten answers, and the kind of question."""
        question, annotation = entry
        number, split = field(question, "image_id", int), field(question, "split")
        if annotation is None:
            raise BadValue("it is in the file of questions, but not in that of annotations", "Download both again.")
        return {
            "images": [self.image(f"{split}/COCO_{split}_{number:012d}.jpg")],
            "question": field(question, "question"),
            "answers": field(annotation, "answers", list),
            "question_type": self.kind(annotation),
        }

    def kind(self, annotation: dict[str, Any]) -> str | None:
        """`yes/no`, `number` or `other`, by which accuracies are published."""
        return annotation.get("answer_type")


class OkVqa(Vqav2):
    """OK-VQA (Marino et al. 2019): VQAv2's layout; the answers are stemmed, as in its evaluation."""

    name = "okvqa"
    title = "OK-VQA"
    address = "https://okvqa.allenai.org/download.html"
    layout = (
        "OpenEnded_mscoco_train2014_questions.json, OpenEnded_mscoco_val2014_questions.json",
        "mscoco_train2014_annotations.json, mscoco_val2014_annotations.json",
        _COCO,
    )
    questions = "OpenEnded_mscoco_{}_questions.json"
    annotations = "mscoco_{}_annotations.json"

    def kind(self, annotation: dict[str, Any]) -> str | None:
        """The field of knowledge, in words where the file has them."""
        kind = annotation.get("question_type")
        return self.types.get(kind, kind) if isinstance(self.types, dict) else kind


class TextVqa(QuestionSource):
    """TextVQA (Singh et al. 2019). The images of the validation split are among those of the training split."""

    name = "textvqa"
    title = "TextVQA"
    address = "https://textvqa.org/dataset"
    layout = ("TextVQA_0.5.1_train.json, TextVQA_0.5.1_val.json", "train_images/: images of both splits")

    def entries(self, split: str) -> Iterable[tuple[str, Any]]:
        """Entries of the list `data`."""
        return self.listed_entries(split, f"TextVQA_0.5.1_{split}.json", id_key="question_id", key="data")

    def folder_row(self, entry: Any) -> dict[str, Any] | None:
        """The question and its ten answers."""
        image = field(entry, "image_id")
        return {
            "images": [self.image(f"train_images/{image}.jpg", f"train_val_images/train_images/{image}.jpg")],
            "question": field(entry, "question"),
            "answers": field(entry, "answers", list),
        }


class VizWizVqa(QuestionSource):
    """VizWiz (Gurari et al. 2018): questions of blind people about their photographs.

    The few empty answers are left out. A question is named after its image.
    """

    name = "vizwizvqa"
    title = "VizWiz-VQA"
    address = "https://vizwiz.org/tasks-and-datasets/vqa"
    layout = ("Annotations/train.json, Annotations/val.json", "train/, val/: images")

    def entries(self, split: str) -> Iterable[tuple[str, Any]]:
        """Entries of the file of a split."""
        files = (f"Annotations/{split}.json", f"annotations/{split}.json", f"{split}.json")
        return self.listed_entries(split, *files, id_key="image")

    def folder_row(self, entry: Any) -> dict[str, Any] | None:
        """The question, the answers, and the kind of answer."""
        image, split = field(entry, "image"), field(entry, "split")
        answers = field(entry, "answers", list)
        return {
            "images": [self.image(f"{split}/{image}", image)],
            "question": field(entry, "question"),
            "answers": [answer for answer in answers if not isinstance(answer, dict) or answer.get("answer")],
            "question_type": entry.get("answer_type"),
        }
