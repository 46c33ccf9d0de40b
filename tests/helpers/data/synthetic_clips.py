"""Miniatures of the datasets of clips: their public layout with a handful of records and generated video files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from synthetic_media import clip, write_json, write_text

TEXTS = ["a Red dog", "two green cats", "what is this"]


def msrvtt_clips(folder: Path) -> dict[str, list[int]]:
    """The clips of each part; one to train on is missing."""
    for number in range(5):
        clip(folder / "TrainValVideo" / f"video{number}.mp4", number)
    for number in (6, 7):
        clip(folder / "TestVideo" / f"video{number}.mp4", number)
    return {"train": [0, 1, 2, 3, 5], "validate": [4], "test": [6, 7]}


def msrvtt_cap(folder: Path) -> dict[str, Any]:
    parts = msrvtt_clips(folder)
    for file, own in (("train_val", ("train", "validate")), ("test", ("test",))):
        videos = [(number, part) for part in own for number in parts[part]]
        content = {
            "videos": [
                {
                    "video_id": f"video{n}",
                    "id": n,
                    "split": part,
                    "category": 9,
                    "start time": 137.7,
                    "end time": 149.4,
                }
                for n, part in videos
            ],
            "sentences": [
                {"sen_id": 10 * n + turn, "video_id": f"video{n}", "caption": text}
                for n, _ in videos
                for turn, text in enumerate(TEXTS)
            ],
        }
        write_json(folder / f"{file}_videodatainfo.json", content)
    return {"path": str(folder)}


def write_questions(folder: Path, parts: dict[str, list[int]]) -> None:
    """The three files of MSRVTT-QA and MSVD-QA."""
    for part, own in parts.items():
        entries = [
            {"id": 100 * n + turn, "video_id": n, "category_id": 14, "question": question, "answer": answer}
            for n in own
            for turn, (question, answer) in enumerate([("what is this?", "dog"), ("who runs?", "cats")])
        ]
        write_json(folder / f"{part}_qa.json", entries)


def msrvtt_qa(folder: Path) -> dict[str, Any]:
    parts = msrvtt_clips(folder)
    write_questions(folder, {"train": parts["train"], "val": parts["validate"], "test": parts["test"]})
    return {"path": str(folder)}


def msvd_qa(folder: Path) -> dict[str, Any]:
    names = {number: f"-4wsuPCjDBc_{number}_15" for number in range(1, 7)}
    for number, name in names.items():
        clip(folder / "YouTubeClips" / f"{name}.avi", number)
    write_text(folder / "youtube_mapping.txt", *(f"{name} vid{number}" for number, name in names.items()))
    write_questions(folder, {"train": [1, 2, 3, 4], "val": [5], "test": [6]})
    return {"path": str(folder)}


def activitynet_cap(folder: Path) -> dict[str, Any]:
    parts = {"train": ["v_a", "v_-b"], "val_1": ["v_c"], "val_2": ["v_d"]}
    for number, name in enumerate(name for own in parts.values() for name in own):
        clip(folder / "videos" / f"{name}.mp4", number, frames=20)
    spans = [[0.0, 1.0], [0.5, 2.4]]
    for part, own in parts.items():
        content = {name: {"duration": 2.5, "timestamps": spans, "sentences": TEXTS[:2]} for name in own}
        write_json(folder / f"{part}.json", content)
    return {"path": str(folder)}


def activitynet_qa(folder: Path) -> dict[str, Any]:
    for number, (part, own) in enumerate({"train": ["a", "b"], "val": ["c"], "test": ["d"]}.items()):
        ids = [(name, turn) for name in own for turn in range(2)]
        for name in own:
            clip(folder / "videos" / f"v_{name}.mp4", number)
        questions = [
            {"video_name": name, "question": f"what is {turn}", "question_id": f"v_{name}_{turn}"}
            for name, turn in ids
        ]
        answers = [{"answer": "yes", "type": turn, "question_id": f"v_{name}_{turn}"} for name, turn in ids]
        write_json(folder / f"{part}_q.json", questions)
        write_json(folder / f"{part}_a.json", answers)
    return {"path": str(folder)}


def vatex_cap(folder: Path) -> dict[str, Any]:
    files = {"training_v1.0": 4, "validation_v1.0": 1, "public_test_english_v1.1": 2}
    for part, count in files.items():
        entries = []
        for number in range(count):
            name = f"{part[:4]}-V0_{number:06d}_{number + 10:06d}"
            clip(folder / "videos" / f"{name}.mp4", number)
            entries.append({"videoID": name, "enCap": TEXTS, "chCap": ["一只狗"]})
        write_json(folder / f"vatex_{part}.json", entries)
    return {"path": str(folder)}


MINIATURES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "msrvtt_cap": msrvtt_cap,
    "msrvtt_qa": msrvtt_qa,
    "msvd_qa": msvd_qa,
    "activitynet_cap": activitynet_cap,
    "activitynet_qa": activitynet_qa,
    "vatex_cap": vatex_cap,
}
