"""Checks of custom data for scores that mean nothing, and for texts that will be cut."""

import json

import pytest
from custom_files import NAMES, coco, edit, found, save_image, table

from openpali.data.custom.dataset import custom_spec, read_custom, share_positives
from openpali.recipes.custom_data.defaults import custom_task
from openpali.recipes.custom_data.text_lengths import TextLengths, TextLimits, answer_tokens, cut_texts, text_settings


def keep_objects(path, kept):
    """Leave annotations of these images only."""

    def change(content):
        content["annotations"] = [one for one in content["annotations"] if one["image_id"] in kept]

    return edit(path, change)


@pytest.mark.parametrize("positives", [1, 2, 3, 5, 19])
def test_every_split_has_objects_if_there_are_enough(tmp_path, positives):
    """Whichever images they are on; the sizes of the splits stay."""
    for first in range(0, 20, 4):
        path = coco(tmp_path / str(first), 20)
        keep_objects(path, {(first + n) % 20 for n in range(positives)})
        read_custom.cache_clear()
        splits = read_custom(custom_spec(str(path), "detect")).splits()
        counts = [sum(bool(row.objects) for row in rows) for rows in splits.values()]
        assert [len(rows) for rows in splits.values()] == [16, 2, 2]
        assert sum(counts) == positives
        assert [bool(count) for count in counts] == [True, positives > 1, positives > 2]


def test_images_stay_if_every_split_has_objects():
    digests = [f"{number:02}" for number in range(10)]
    part_of = {"00": 0, "01": 1}
    assert share_positives(part_of, digests, set(digests), 2) == part_of
    assert share_positives(part_of, digests, set(), 2) == part_of


def coco_splits(folder, *counts):
    """A COCO JSON for train, valid and test, with objects on so many of the six images of each."""
    for place, (name, count) in enumerate(zip(("train", "valid", "test"), counts)):
        first = 10 * place
        path = coco(folder / name, 6, "_annotations.coco.json", first=first, images=".")
        keep_objects(path, set(range(first, first + count)))
    return folder


def test_splits_without_objects_are_reported(check, tmp_path):
    error, shown, report = check(coco_splits(tmp_path / "data", 6, 0, 6), "detect")
    assert not error
    assert "none of the 6 images of the validation split has an object: its scores are undefined, and weights" in shown
    assert "are chosen by the validation loss. Give it some, or --resplit true" in shown
    assert found(report, "positives") == [("warning", 6)]
    assert not found(check(tmp_path / "data", "detect", "--resplit", "true")[2], "positives")
    error, _, _ = check(coco_splits(tmp_path / "other", 0, 6, 6), "detect")
    assert "none of the 6 images of the train split has an object: there is nothing to learn" in error


def test_a_caption_score_that_is_always_zero_is_reported(check, tmp_path):
    table(tmp_path / "few", [{"text": f"a dog number {number}"} for number in range(12)])
    _, shown, report = check(tmp_path / "few", "caption")
    assert "the validation split has one image, on which CIDEr is always 0, and weights are chosen by" in shown
    assert found(report, "scores") == [("warning", 1), ("warning", 1)]
    table(tmp_path / "same", [{"text": "a dog"} for _ in range(40)])
    assert "the validation split has the same captions for all 4 images" in check(tmp_path / "same", "caption")[1]
    table(tmp_path / "many", [{"text": f"a dog number {number}"} for number in range(40)])
    assert not found(check(tmp_path / "many", "caption")[2], "scores")


def test_the_scored_records_of_a_split_are_checked(check, tmp_path):
    """The first records of a split may all be without an object, or with one caption."""
    data = coco_splits(tmp_path / "data", 6, 6, 6)
    edit(data / "valid" / "_annotations.coco.json", lambda c: c["annotations"].__delitem__(slice(0, 3)))
    _, shown, _ = check(data, "detect", "--eval_limit", "2")
    assert "none of the 2 images of the scored (--eval_limit 2) validation split has an object" in shown
    assert "Give a larger --eval_limit." in shown
    assert "has an object" not in check(data, "detect", "--eval_limit", "4")[1]
    table(tmp_path / "many", [{"text": f"a dog number {number}"} for number in range(40)])
    _, shown, _ = check(tmp_path / "many", "caption", "--eval_limit", "1")
    assert "the scored (--eval_limit 1) validation split has one image, on which CIDEr is always 0" in shown


def crowded(folder, boxes, count=20):
    """COCO images with so many boxes each."""
    content = {
        "images": [],
        "annotations": [],
        "categories": [{"id": n, "name": name} for n, name in enumerate(NAMES)],
    }
    for number in range(count):
        save_image(folder / "images" / f"{number}.png", number)
        content["images"].append({"id": number, "file_name": f"{number}.png", "width": 40, "height": 40})
        for box in range(boxes):
            one = {"id": 1000 * number + box, "image_id": number, "category_id": box % 3}
            content["annotations"].append(one | {"bbox": [box % 20, box // 20, 8, 8]})
    path = folder / "annotations.json"
    path.write_text(json.dumps(content))
    return path


def test_many_boxes_have_room_in_scoring(tiny_tokenizer, tmp_path):
    read_custom.cache_clear()
    data = read_custom(custom_spec(str(crowded(tmp_path, 250, 6)), "detect"))
    (row, *_) = data.rows[""]
    lengths = TextLengths(data, tiny_tokenizer)
    target = " ; ".join(f"<loc0001><loc0002><loc0003><loc0004> {NAMES[n % 3]}" for n in range(250))
    exact = len(tiny_tokenizer(target, add_special_tokens=False)["input_ids"])
    assert lengths.target(row) == exact > 2000
    assert exact <= lengths.target_at_most(row) <= answer_tokens(data, tiny_tokenizer)
    task = {"max_new_tokens": answer_tokens(data, tiny_tokenizer), "classes": NAMES}
    assert list(cut_texts(data, task, TextLimits(tiny_tokenizer))) == []


def test_targets_longer_than_the_limits_are_reported_with_what_to_raise(check, tmp_path):
    path = crowded(tmp_path / "data", 25)
    error, shown, report = check(path, "detect", "--suffix_max_length", "64", "--task.max_new_tokens", "50")
    assert not error
    train, validation, test = (one for one in report["findings"] if one["check"] == "length")
    assert (train["records"], validation["records"], test["records"]) == (16, 2, 2)
    assert "16 of 16 targets of the train split have more than suffix_max_length=64 and are cut. Give" in train["text"]
    assert f"--task.max_new_tokens {validation['text'].rpartition(' ')[2]}" in validation["text"]
    assert "so that recall cannot pass" in validation["text"]
    needed = int(validation["text"].rpartition(" ")[2].rstrip("."))
    raised = ["--suffix_max_length", str(needed + 1), "--task.max_new_tokens", str(needed)]
    assert not found(check(path, "detect", *raised)[2], "length")
    assert found(check(path, "detect", "--suffix_max_length", str(needed))[2], "length") == [("warning", 16)]


def test_long_answers_and_prompts_are_reported(check, tmp_path):
    rows = [{"question": "what? " * (1 + 30 * (n == 3)), "answer": "a dog " * (n + 1)} for n in range(30)]
    table(tmp_path / "data", rows)
    _, _, report = check(tmp_path / "data", "vqa", "--max_length", "40", "--suffix_max_length", "20")
    texts = [one["text"] for one in report["findings"] if one["check"] == "length"]
    assert any("prompts of the train split have more than max_length=40" in text for text in texts)
    assert any("targets of the train split have more than suffix_max_length=20" in text for text in texts)
    assert not any("recall" in text for text in texts)


@pytest.mark.parametrize("classes", [3, 80, 2000])
def test_the_classes_in_prompts_are_reported(tiny_tokenizer, tmp_path, classes):
    """Prompts name all classes unless they become too long; COCO has 80."""
    path = coco(tmp_path, 20)

    def categories(content):
        content["categories"] = [{"id": n, "name": f"d{n}"} for n in range(classes)]
        content["annotations"] = [
            one | {"category_id": n % classes, "id": 10000 + n}
            for n, one in enumerate(content["annotations"] * (1 + classes // 20))
        ]

    edit(path, categories)
    read_custom.cache_clear()
    data = read_custom(custom_spec(str(path), "detect"))
    values = {"kind": "detect", "prompt": "", "language": "en", "max_length": None}
    task = custom_task(values, data, tiny_tokenizer)
    settings = text_settings(data, task | {"max_new_tokens": 99}, TextLimits(tiny_tokenizer))
    assert settings["answers"].startswith("up to 99 tokens in scoring; the longest target has ")
    assert len(task.get("classes", ())) == (classes if classes <= 80 else 0)
    if classes <= 80:
        assert settings["prompts"] == f"name {classes} of {classes} classes, also on images without any"
    else:
        assert "ask for one class that is on the image: the names of all 2000 have " in settings["prompts"]
        assert "does not learn which classes are absent" in settings["prompts"]
    short = custom_task(values | {"max_length": 4}, data, tiny_tokenizer)
    assert short == {"name": "detect"}
