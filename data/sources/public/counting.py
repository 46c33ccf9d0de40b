"""TallyQA and CountBenchQA (counting), and POPE (presence of objects)."""

from collections.abc import Iterable
from typing import Any, ClassVar

from openpali.data.files.annotations import BadValue
from openpali.data.files.dataset_files import hub_copy, json_line, json_lines, with_images
from openpali.data.images.open_image import BadImage, load_image
from openpali.data.sources.public.base import encoded, field, held_out
from openpali.data.sources.public.questions import QuestionSource, name_of

POPE_KINDS = ("random", "popular", "adversarial")


class TallyQa(QuestionSource):
    """TallyQA (Acharya et al. 2019); `simple` and `complex` questions of the test split are distinguished.

    There is no validation split: one image in twenty of the train split is held out.
    """

    name = "tallyqa"
    title = "TallyQA"
    address = "https://github.com/manoja328/tallyqa (tallyqa.zip)"
    layout = (
        "train.json, test.json",
        "VG_100K/, VG_100K_2/: images of Visual Genome, from https://homes.cs.washington.edu/~ranjay/visualgenome",
        "train2014/, val2014/: images, from https://cocodataset.org",
    )
    splits: ClassVar[dict[str, str]] = {"train": "train", "validation": "held out", "test": "test"}
    hub_columns: ClassVar[dict[str, str | list[str]]] = {"image": "image", "question": "question", "answers": "answer"}

    def entries(self, split: str) -> Iterable[tuple[str, Any]]:
        """Entries of the file of a split."""
        for number, entry in enumerate(self.read_list("test.json" if split == "test" else "train.json")):
            image = entry.get("image") if isinstance(entry, dict) else None
            if split != "test" and held_out(f"tallyqa/{image}") != (split == "held out"):
                continue
            # several hundred questions share an id
            yield f"{number}-{name_of(entry, 'question_id', number)}", entry

    def folder_row(self, entry: Any) -> dict[str, Any] | None:
        """The question, the number, and its difficulty."""
        simple = entry.get("issimple") if isinstance(entry, dict) else None
        kind = {"question_type": "simple" if simple else "complex"} if isinstance(simple, bool | int) else {}
        return {
            "images": [self.image(field(entry, "image"))],
            "question": field(entry, "question"),
            "answers": [field(entry, "answer", (int, str))],
        } | kind


class CountBenchQa(QuestionSource):
    """CountBenchQA (Beyer et al. 2024): questions for the images of CountBench (Paiss et al. 2023); for evaluation.

    A parquet file has the images with their counts; the questions are in the same order.
    """

    name = "countbenchqa"
    title = "CountBenchQA"
    address = "https://huggingface.co/datasets/nielsr/countbench and https://github.com/google-research/big_vision"
    layout = (
        "data/train-00000-of-00001-cf54c241ba947306.parquet: images, from the former",
        "countbench_paired_questions.json, from big_vision/datasets/countbenchqa/data of the latter",
    )
    splits: ClassVar[dict[str, str]] = {"train": "train", "validation": "train", "test": "train"}
    hub_columns: ClassVar[dict[str, str | list[str]]] = {"image": "image", "question": "question", "answers": "number"}

    def entries(self, split: str) -> Iterable[tuple[str, Any]]:
        """Rows of the file, each with its question."""
        questions = self.read_list("countbench_paired_questions.json")
        folder = self.find("data") if (self.path / "data").is_dir() else self.path
        files = sorted(folder.glob("*.parquet"))
        if not files:
            self.find("data/train-00000-of-00001-cf54c241ba947306.parquet")
        self._table = hub_copy("parquet", None, "train", ["image"], [str(file) for file in files])
        shown = with_images(self._table, ["image"])
        rows = zip(questions, self._table.select_columns(["number"]), shown)
        for number, (question, row, has_image) in enumerate(rows):
            yield str(number), (number, question, row["number"], has_image)

    def folder_row(self, entry: Any) -> dict[str, Any] | None:
        """The question and the number."""
        number, question, count, has_image = entry
        if not has_image:
            return self.leave_out("no image")
        return {"images": number, "question": field(question, "question"), "answers": [count]}

    def load_images(self, row: dict[str, Any]) -> list[Any]:
        """The image of a row."""
        if self.hub is not None:
            return super().load_images(row)
        try:
            return [load_image(encoded(self._table[row["images"]]["image"], "image"))]
        except BadImage as error:
            raise BadValue(str(error), "Download the file again.") from error


class Pope(QuestionSource):
    """POPE (Li et al. 2023): is there a dog? For evaluation; all splits are the same 9,000 questions."""

    name = "pope"
    title = "POPE"
    address = "https://github.com/AoiDragon/POPE"
    layout = (
        "output/coco/coco_pope_random.json, coco_pope_popular.json, coco_pope_adversarial.json: a JSON object a line",
        "val2014/: images, from https://cocodataset.org (or image_root: the folder that has val2014)",
    )
    splits: ClassVar[dict[str, str]] = {"train": "test", "validation": "test", "test": "test"}
    hub_columns: ClassVar[dict[str, str | list[str]]] = {
        "image": "image",
        "question": "question",
        "answers": "answer",
        "question_type": "category",
    }

    def entries(self, split: str) -> Iterable[tuple[str, Any]]:
        """Unparsed lines of the three files."""
        for kind in POPE_KINDS:
            name = f"coco_pope_{kind}.json"
            for number, line in json_lines(self.find(f"output/coco/{name}", f"coco/{name}", name)):
                yield f"{kind}-{number}", (kind, line)

    def folder_row(self, entry: Any) -> dict[str, Any] | None:
        """The question, yes or no, and how the object was chosen."""
        kind, line = entry
        content = json_line(line)
        image = field(content, "image")
        return {
            "images": [self.image(f"val2014/{image}", image)],
            "question": field(content, "text"),
            "answers": [field(content, "label").lower()],
            "question_type": kind,
        }
