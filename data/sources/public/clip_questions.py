"""Questions about clips: MSRVTT-QA, MSVD-QA and ActivityNet-QA."""

from collections.abc import Iterable
from typing import Any

from openpali.data.files.annotations import BadValue
from openpali.data.sources.public.base import field
from openpali.data.sources.public.captions import checked_texts, entry_name
from openpali.data.sources.public.clips import PublicClips


class MsrVttQuestions(PublicClips):
    """MSRVTT-QA (Xu et al. 2017): questions made from the captions of MSR-VTT, with one-word answers.

    A record holds `id`, `images`, `question` and `answers` (one).
    """

    name = "msrvtt_qa"
    title = "MSRVTT-QA"
    address = "https://github.com/xudejing/video-question-answering (MSRVTT-QA.zip), and the clips of MSR-VTT"
    layout = ("train_qa.json", "val_qa.json", "test_qa.json", "TrainValVideo/video0.mp4 ...", "TestVideo/...")
    splits = {"train": "train", "validation": "val", "test": "test"}
    clips = ("TrainValVideo", "TestVideo", "videos", "video")

    def entries(self, split: str) -> Iterable[tuple[str, Any]]:
        """The questions of a split's file."""
        for number, entry in enumerate(self.read_list(f"{split}_qa.json")):
            yield entry_name(entry, number, "id"), entry

    def clip_row(self, entry: Any) -> dict[str, Any]:
        """Question, answer and clip."""
        clip = self.clip_of(field(entry, "video_id", (int, str)))
        return {"clip": clip} | question_fields(entry.get("question"), entry.get("answer"))

    def clip_of(self, number: int | str) -> str:
        """The name of a clip."""
        return f"video{number}"


class MsvdQuestions(MsrVttQuestions):
    """MSVD-QA (Xu et al. 2017): the same for the clips of MSVD."""

    name = "msvd_qa"
    title = "MSVD-QA"
    address = (
        "https://github.com/xudejing/video-question-answering (MSVD-QA.zip with youtube_mapping.txt) and"
        " https://www.cs.utexas.edu/users/ml/clamp/videoDescription/ (YouTubeClips.tar)"
    )
    layout = ("train_qa.json", "val_qa.json", "test_qa.json", "youtube_mapping.txt", "YouTubeClips/*.avi")
    clips = ("YouTubeClips", "videos", "video")

    def entries(self, split: str) -> Iterable[tuple[str, Any]]:
        """The questions of a split's file."""
        lines = self.find("youtube_mapping.txt").read_text("utf-8-sig").splitlines()
        # "-4wsuPCjDBc_5_15 vid1": the name of the file, and the name in the questions
        pairs = [line.rsplit(maxsplit=1) for line in lines if len(line.split()) > 1]
        self._names = {number: name for name, number in pairs}
        yield from super().entries(split)

    def clip_of(self, number: int | str) -> str:
        """The name of a clip in MSVD."""
        name = self._names.get(f"vid{number}")
        if name is None:
            raise BadValue(f"youtube_mapping.txt has no vid{number}", "Download it again.")
        return name


class ActivityNetQuestions(PublicClips):
    """ActivityNet-QA (Yu et al. 2019): 32,000 questions for training, 18,000 for validation, 8,000 for test.

    A record holds `id`, `images`, `question`, `answers` (one) and `question_type` (0 to 8, as text).
    """

    name = "activitynet_qa"
    title = "ActivityNet-QA"
    address = "https://github.com/MILVLG/activitynet-qa (dataset) and http://activity-net.org/download.html"
    layout = ("{train,val,test}_q.json", "{train,val,test}_a.json", "videos/v_1QIUV7WYKXg.mp4 ...")
    splits = {"train": "train", "validation": "val", "test": "test"}

    def entries(self, split: str) -> Iterable[tuple[str, Any]]:
        """Questions, each with the answer of the same number."""
        answers = {
            answer["question_id"]: answer
            for answer in self.read_list(f"{split}_a.json")
            if isinstance(answer, dict) and isinstance(answer.get("question_id"), str)
        }
        for number, entry in enumerate(self.read_list(f"{split}_q.json")):
            name = entry_name(entry, number, "question_id")
            yield name, entry | {"own": answers.get(name)} if isinstance(entry, dict) else entry

    def clip_row(self, entry: Any) -> dict[str, Any]:
        """Question, answer and clip."""
        if not isinstance(entry, dict) or entry["own"] is None:
            raise BadValue("the file of answers has none of this number", "Download both files again.")
        answer = entry["own"]
        row = {"clip": f"v_{field(entry, 'video_name')}", "question_type": str(answer.get("type", ""))}
        return row | question_fields(entry.get("question"), answer.get("answer"))


def question_fields(question: Any, answer: Any) -> dict[str, Any]:
    """`question` and `answers` (one) of an entry. Raises BadValue."""
    return {"question": checked_texts(question, "question")[0], "answers": checked_texts(answer, "answer")}
