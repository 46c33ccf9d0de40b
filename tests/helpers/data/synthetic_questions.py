"""Miniatures of the question datasets: the public layout of each, with a handful of records and generated images.

Each function writes one into a folder, and gives what the `source` of its configuration needs instead of a download.
"""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from synthetic_media import save_image, write_json, write_lines, write_text

from openpali.data.sources.public.base import held_out

MARVL_LANGUAGES = ("id", "zh")
COUNT = 3


def ten(answer: str, other: str = "nothing", agree: int = 7) -> list[dict[str, str]]:
    """Ten answers in the form of VQAv2."""
    texts = [answer] * agree + [other] * (10 - agree)
    return [{"answer": text, "answer_confidence": "yes", "raw_answer": text} for text in texts]


def keys(kind: str, kept_out: bool, pattern: str) -> Iterator[str]:
    """Names of images that are kept out of training, or are not."""
    return (name for i in itertools.count() if held_out(f"{kind}/{(name := pattern.format(i))}") == kept_out)


def coco_questions(folder: Path, questions: str, annotations: str) -> dict[str, Any]:
    """VQAv2 and OK-VQA: questions and annotations in two files."""
    for start, part in ((0, "train2014"), (40, "val2014")):
        asked, answered = [], []
        for number in range(start, start + COUNT):
            save_image(folder / part / f"COCO_{part}_{number:012d}.jpg", number)
            asked.append({"image_id": number, "question": "What colour is this?", "question_id": 10 * number})
            kind = {"answer_type": "other", "question_type": "one", "multiple_choice_answer": "red"}
            answered.append({"question_id": 10 * number, "image_id": number, "answers": ten("red")} | kind)
        write_json(folder / questions.format(part), {"questions": asked})
        types = {"one": "Vehicles and Transportation"} if "v2" not in annotations else None
        write_json(folder / annotations.format(part), {"annotations": answered, "question_types": types})
    return {"path": str(folder)}


def vqav2(folder: Path) -> dict[str, Any]:
    """VQAv2."""
    return coco_questions(folder, "v2_OpenEnded_mscoco_{}_questions.json", "v2_mscoco_{}_annotations.json")


def okvqa(folder: Path) -> dict[str, Any]:
    """OK-VQA."""
    return coco_questions(folder, "OpenEnded_mscoco_{}_questions.json", "mscoco_{}_annotations.json")


def aokvqa(folder: Path) -> dict[str, Any]:
    """A-OKVQA; the last question of each part is too difficult without choices."""
    for start, part in ((0, "train"), (40, "val")):
        rows = []
        for number in range(start, start + COUNT + 1):
            save_image(folder / f"{part}2017" / f"{number:012d}.jpg", number)
            row = {"split": part, "image_id": number, "question_id": f"q{number}", "question": "What is it for?"}
            row |= {"choices": ["to eat", "to sit", "to see", "to ride"], "correct_choice_idx": number % 4}
            row |= {"direct_answers": ["sitting"] * 6 + ["rest"] * 4, "rationales": ["One sits on it."]}
            rows.append(row | {"difficult_direct_answer": number == start + COUNT})
        write_json(folder / f"aokvqa_v1p0_{part}.json", rows)
    return {"path": str(folder)}


def gqa(folder: Path) -> dict[str, Any]:
    """GQA, and two languages of xGQA."""
    for start, part in ((0, "train_balanced"), (40, "val_balanced"), (80, "testdev_balanced")):
        content = {}
        for number in range(start, start + COUNT):
            save_image(folder / "images" / f"n{number}.jpg", number)
            row = {"imageId": f"n{number}", "question": "Is it red?", "answer": "yes", "fullAnswer": "Yes, it is."}
            content[f"{number:07d}"] = row | {"isBalanced": True, "types": {"structural": "verify"}}
        write_json(folder / f"{part}_questions.json", content)
    for language, question in (("de", "Ist es rot?"), ("zh", "是红色的吗?")):
        translated = {id_: row | {"question": question} for id_, row in content.items()}
        write_json(folder / "zero_shot" / f"testdev_balanced_questions_{language}.json", translated)
    return {"path": str(folder)}


def nlvr2(folder: Path) -> dict[str, Any]:
    """NLVR2, and two languages of MaRVL."""
    for start, part, where in ((0, "train", "images/train/7"), (40, "dev", "dev"), (80, "test1", "test1")):
        rows = []
        for number in range(start, start + COUNT):
            for side in (0, 1):
                save_image(folder / where / f"{part}-{number}-1-img{side}.png", number + side)
            row = {"sentence": "Both are red.", "identifier": f"{part}-{number}-1-0", "synset": "chair"}
            rows.append(row | {"label": "True" if number % 2 else "False"} | ({"directory": 7} if start == 0 else {}))
        write_lines(folder / f"{part}.json", rows)
    for language in MARVL_LANGUAGES:
        for side in (1, 2):
            save_image(folder / "marvl" / language / "images" / "1-Ayam" / f"1-{side}.jpg", side)
        row = {"concept": "1-Ayam", "language": language, "caption": "两张图都有鸡。", "left_img": "1-1.jpg"}
        row |= {"right_img": "1-2.jpg", "id": f"{language}-0", "label": True}
        write_lines(folder / "marvl" / language / "annotations" / f"marvl-{language}.jsonl", [row])
    return {"path": str(folder)}


def ai2d(folder: Path) -> dict[str, Any]:
    """AI2D; the second question about each diagram is about letters."""
    trains, kept = keys("ai2d", False, "{}"), keys("ai2d", True, "{}")
    numbers = [next(trains) for _ in range(2 * COUNT)] + [next(kept) for _ in range(COUNT)]
    for number in numbers:
        save_image(folder / "images" / f"{number}.png", int(number))
        plain = {"abcLabel": False, "answerTexts": ["sun", "moon", "leaf", "root"], "correctAnswer": int(number) % 4}
        lettered = {"abcLabel": True, "answerTexts": ["A", "B", "C", "D"], "correctAnswer": 1}
        questions = {"What is on the left?": plain, "Which letter is the moon?": lettered}
        write_json(folder / "questions" / f"{number}.png.json", {"imageName": f"{number}.png", "questions": questions})
        text = {"T0": {"rectangle": [[4, 4], [20, 16]], "replacementText": "B", "value": "moon"}}
        write_json(folder / "annotations" / f"{number}.png.json", {"text": text})
    write_text(folder / "ai2d_test_ids.csv", *numbers[:COUNT])
    return {"path": str(folder)}


def science_qa(folder: Path) -> dict[str, Any]:
    """ScienceQA; the last problem of each part has no image."""
    problems = {}
    for start, part in ((0, "train"), (40, "val"), (80, "test")):
        for number in range(start, start + COUNT + 1):
            image = "image.png" if number < start + COUNT else None
            if image:
                save_image(folder / part / str(number) / image, number)
            row = {"question": "Which one is a solid?", "choices": ["milk", "stone", "air"], "answer": number % 3}
            row |= {"hint": "Look at it." if number % 2 else "", "image": image, "subject": "natural science"}
            problems[str(number)] = row | {"split": part, "grade": "grade2", "task": "closed choice"}
    write_json(folder / "problems.json", problems)
    return {"path": str(folder)}


def rsvqa(folder: Path, files: str, images: str, unit: str) -> dict[str, Any]:
    """RSVQA: each part's files hold the questions of other parts too, which are not active."""
    for start, part in ((0, "train"), (40, "val"), (80, "test")):
        questions, answers = [{"id": 999, "active": False}], [{"id": 999, "active": False}]
        kinds = [("presence", "yes"), ("comp", "no"), ("presence", "no"), ("area" if unit else "count", f"12{unit}")]
        for number, (kind, answer) in enumerate(kinds, start):
            save_image(folder / images / f"{number}.tif", number)
            row = {"id": number, "img_id": number, "type": kind, "question": "Is there a road?"}
            questions.append(row | {"answers_ids": [number + 500], "active": True})
            answers.append({"id": number + 500, "question_id": number, "answer": answer, "active": True})
        write_json(folder / files.format(part, "questions"), {"questions": questions})
        write_json(folder / files.format(part, "answers"), {"answers": answers})
    return {"path": str(folder)}


def rsvqa_lr(folder: Path) -> dict[str, Any]:
    """RSVQA-LR."""
    return rsvqa(folder, "LR_split_{}_{}.json", "Images_LR", "")


def rsvqa_hr(folder: Path) -> dict[str, Any]:
    """RSVQA-HR."""
    return rsvqa(folder, "USGS_split_{}_{}.json", "Data", "m2")


def chartqa(folder: Path) -> dict[str, Any]:
    """ChartQA."""
    for start, part in ((0, "train"), (40, "val"), (80, "test")):
        for kind, query, label in (("human", "What is the sum?", "12.5"), ("augmented", "Which bar is it?", "Peru")):
            rows = []
            for number in range(start, start + 2):
                save_image(folder / part / "png" / f"{kind}{number}.png", number)
                rows.append({"imgname": f"{kind}{number}.png", "query": query, "label": label})
            write_json(folder / part / f"{part}_{kind}.json", rows)
    return {"path": str(folder)}


def vizwizvqa(folder: Path) -> dict[str, Any]:
    """VizWiz; one of the ten answers is empty."""
    for start, part in ((0, "train"), (40, "val")):
        rows = []
        for number in range(start, start + COUNT):
            image = f"VizWiz_{part}_{number:08d}.jpg"
            save_image(folder / part / image, number)
            answers = [*ten("unanswerable", "a can")[:9], {"answer": "", "answer_confidence": "no"}]
            row = {"image": image, "question": "What is this? Thank you.", "answers": answers}
            rows.append(row | {"answer_type": "unanswerable", "answerable": 0})
        write_json(folder / "Annotations" / f"{part}.json", rows)
    return {"path": str(folder)}


def tallyqa(folder: Path) -> dict[str, Any]:
    """TallyQA: images of Visual Genome to train on and of COCO in the test part."""
    trains, kept = keys("tallyqa", False, "VG_100K/{}.jpg"), keys("tallyqa", True, "VG_100K/{}.jpg")
    shown = [next(trains) for _ in range(COUNT)] + [next(kept) for _ in range(COUNT)]
    rows = {"train": [], "test": []}
    for number, image in enumerate([*shown, *(f"VG_100K_2/{i}.jpg" for i in range(COUNT))]):
        save_image(folder / image, number)
        row = {"image": image, "answer": number % 4, "question": "How many dogs are there?", "question_id": 5}
        part = "train" if image in shown else "test"
        rows[part].append(row | ({"issimple": number % 2 == 0} if part == "test" else {}))
    for part in rows:
        write_json(folder / f"{part}.json", rows[part])
    return {"path": str(folder)}


def countbenchqa(folder: Path) -> dict[str, Any]:
    """CountBenchQA: images in a parquet file, of which one is missing, and questions in a file beside it."""
    import datasets

    shown = [{"bytes": save_image(folder / f"{i}.png", i).read_bytes(), "path": None} for i in range(COUNT)]
    columns = {"image": [*shown, None], "text": ["three cups"] * 4, "number": [2, 3, 4, 5]}
    features = datasets.Features(
        {"image": datasets.Image(), "text": datasets.Value("string"), "number": datasets.Value("int64")}
    )
    (folder / "data").mkdir(parents=True)
    table = datasets.Dataset.from_dict(columns, features)
    table.to_parquet(str(folder / "data" / "train-00000-of-00001-cf54c241ba947306.parquet"))
    questions = [{"question": f"How many cups are there in image {i}?"} for i in range(4)]
    write_json(folder / "countbench_paired_questions.json", questions)
    return {"path": str(folder)}


def ocrvqa(folder: Path) -> dict[str, Any]:
    """OCR-VQA: two questions about each cover."""
    covers = {}
    for number in range(9):
        save_image(folder / "images" / f"{number:010d}.jpg", number)
        row = {"imageURL": f"http://ecx.images-amazon.com/images/I/{number}.jpg", "split": number // 3 + 1}
        row |= {"questions": ["Who wrote this book?", "Is this a sci-fi book?"], "answers": ["Lem, Stanislaw", "Yes"]}
        covers[f"{number:010d}"] = row | {"title": "Solaris", "authorName": "Lem, Stanislaw", "genre": "Fiction"}
    write_json(folder / "dataset.json", covers)
    return {"path": str(folder)}


def textvqa(folder: Path) -> dict[str, Any]:
    """TextVQA: the images of both parts in one folder."""
    for start, part in ((0, "train"), (40, "val")):
        rows = []
        for number in range(start, start + COUNT):
            save_image(folder / "train_images" / f"{number:016x}.jpg", number)
            row = {"question": "what brand is it?", "image_id": f"{number:016x}", "question_id": number}
            rows.append(row | {"answers": ["nokia"] * 8 + ["Nokia", "phone"], "set_name": part})
        write_json(folder / f"TextVQA_0.5.1_{part}.json", {"dataset_type": part, "data": rows})
    return {"path": str(folder)}


def docvqa(folder: Path) -> dict[str, Any]:
    """DocVQA in the layout of its second edition."""
    for start, part in ((0, "train"), (40, "val")):
        rows = []
        for number in range(start, start + COUNT):
            save_image(folder / "spdocvqa_images" / f"doc{number}_1.png", number)
            row = {"questionId": number, "question": "What is the date?", "image": f"documents/doc{number}_1.png"}
            rows.append(row | {"answers": ["May 1, 1998", "May 1"], "data_split": part, "question_types": ["form"]})
        write_json(folder / "spdocvqa_qas" / f"{part}_v1.0_withQT.json", {"dataset_split": part, "data": rows})
    return {"path": str(folder)}


def infovqa(folder: Path) -> dict[str, Any]:
    """InfographicVQA, an answer of which is a list."""
    for start, part, ending in ((0, "train", ""), (40, "val", "_withQT")):
        rows = []
        for number in range(start, start + COUNT):
            save_image(folder / "infographicsvqa_images" / f"{number}.jpeg", number)
            row = {"questionId": number, "question": "Which cities?", "image_local_name": f"{number}.jpeg"}
            rows.append(row | {"answers": ["Rome, Oslo"], "data_split": part})
        write_json(folder / "infographicsvqa_qas" / f"infographicsVQA_{part}_v1.0{ending}.json", {"data": rows})
    return {"path": str(folder)}


def stvqa(folder: Path) -> dict[str, Any]:
    """ST-VQA."""
    trains = keys("stvqa", False, "coco-text/COCO_train2014_{:012d}.jpg")
    kept = keys("stvqa", True, "coco-text/COCO_train2014_{:012d}.jpg")
    rows = []
    for number, path in enumerate(next(names) for names in (trains, trains, trains, kept, kept)):
        save_image(folder / "train_images" / path, number)
        row = {"file_path": path, "file_name": path.split("/")[1], "question": "What does the sign say?"}
        rows.append(row | {"answers": ["STOP", "stop sign"], "question_id": number, "dataset": "coco-text"})
    write_json(folder / "train_task_3.json", {"task_name": "task3", "data": rows})
    return {"path": str(folder)}


def pope(folder: Path) -> dict[str, Any]:
    """POPE."""
    for kind in ("random", "popular", "adversarial"):
        rows = []
        for number in range(2):
            image = f"COCO_val2014_{number:012d}.jpg"
            save_image(folder / "val2014" / image, number)
            row = {"question_id": number + 1, "image": image, "text": "Is there a dog in the image?"}
            rows.append(row | {"label": ("yes", "no")[number]})
        write_lines(folder / "output" / "coco" / f"coco_pope_{kind}.json", rows)
    return {"path": str(folder)}


MINIATURES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "vqav2": vqav2,
    "okvqa": okvqa,
    "aokvqa_da": aokvqa,
    "aokvqa_mc": aokvqa,
    "gqa": gqa,
    "nlvr2": nlvr2,
    "ai2d": ai2d,
    "science_qa": science_qa,
    "rsvqa_lr": rsvqa_lr,
    "rsvqa_hr": rsvqa_hr,
    "chartqa": chartqa,
    "vizwizvqa": vizwizvqa,
    "tallyqa": tallyqa,
    "ocrvqa": ocrvqa,
    "textvqa": textvqa,
    "docvqa": docvqa,
    "infovqa": infovqa,
    "stvqa": stvqa,
    "pope": pope,
}
"""Row of the table of transfers to what writes its dataset: `MINIATURES[row](folder)`."""
