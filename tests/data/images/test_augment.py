import random

import numpy as np
import pytest
from PIL import Image

from openpali.data.example import Box
from openpali.data.images.augment import Augment, Window, crop_to, cropped, flipped, zoomed_out
from openpali.data.masks.objects import reading_order
from openpali.data.masks.rle import encode_rle, mask_array, mask_box
from openpali.data.mixture import TaskDataset
from openpali.data.sources import Augmented, load_source
from openpali.data.sources.builtin.emoji import EmojiScenes
from openpali.data.sources.builtin.placement import grid_position
from openpali.data.tasks import load_task


@pytest.fixture(scope="module")
def scenes(drawings):
    return EmojiScenes(objects=(1, 4), length=60, size=96, cache_dir=drawings)


def iou(a: Box, b: Box) -> float:
    width, height = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
    shared = max(width, 0) * max(height, 0)
    return shared / ((a.x1 - a.x0) * (a.y1 - a.y0) + (b.x1 - b.x0) * (b.y1 - b.y0) - shared)


def exact(record) -> None:
    """Masks have the size of the image, and their tightest boxes are the boxes."""
    for item in record["objects"]:
        mask = mask_array(item["mask"])
        assert mask.shape == (record["image"].height, record["image"].width)
        assert iou(mask_box(mask), item["box"]) > 1 - 1e-6


def colours(record) -> list[tuple[str, int]]:
    """What is seen of each object: its name, and the sum of the image under its mask."""
    image = np.asarray(record["image"], np.int64).sum(axis=2)
    return sorted((item["concept"], int(image[mask_array(item["mask"])].sum())) for item in record["objects"])


STEPS = {
    "flip": lambda record, rng: flipped(record),
    "zoom out": lambda record, rng: zoomed_out(record, rng.uniform(1, 2), rng),
    "crop": lambda record, rng: cropped(record, (0.5, 1.0), rng),
}


@pytest.mark.parametrize("step", STEPS)
def test_boxes_are_those_of_the_masks_and_show_the_same_pixels(step, scenes):
    changed = 0
    for index in range(60):
        record = {key: value for key, value in scenes[index].items() if key != "captions"}
        after = STEPS[step](record, random.Random(index))
        exact(after)
        assert after["id"] == record["id"]
        if step != "crop":
            assert colours(after) == colours(record)
        changed += after["image"].tobytes() != record["image"].tobytes()
    assert changed > 45


def test_all_together_and_again(scenes):
    augment = Augment(flip=0.5, crop=(0.6, 1.0), zoom_out=(1.0, 1.5))
    for index in range(60):
        after = augment(scenes[index], random.Random(index), rewritten=True)
        exact(after)
        again = augment(scenes[index], random.Random(index), rewritten=True)
        assert after["image"].tobytes() == again["image"].tobytes()


def test_flipping_twice_is_nothing(scenes):
    record = {key: value for key, value in scenes[3].items() if key != "captions"}
    twice = flipped(flipped(record))
    assert twice["image"].tobytes() == record["image"].tobytes()
    for one, other in zip(twice["objects"], record["objects"], strict=True):
        assert np.array_equal(mask_array(one["mask"]), other["mask"])
        assert iou(one["box"], other["box"]) > 1 - 1e-9


def record_with(**texts):
    image = Image.new("RGB", (20, 10), "red")
    image.paste("blue", (0, 0, 5, 10))
    return {"id": "1", "image": image, **texts}


def test_texts_follow_a_flip():
    mask = np.zeros((10, 20), bool)
    mask[2:6, 0:5] = True
    item = {"box": Box(0, 0.2, 0.25, 0.6, "left cup"), "names": {"en": "left cup", "xx": "left"}, "concept": "cup"}
    item |= {"sentences": {"en": ["left cup", "cup left of the jug"]}, "mask": encode_rle(mask), "position": "left"}
    after = flipped(record_with(objects=[item], captions={"en": ["a cup on the left"], "de": "links eine tasse"}))
    (found,) = after["objects"]
    assert found["box"] == Box(0.75, 0.2, 1, 0.6, "right cup")
    assert found["names"] == {"en": "right cup", "xx": "left"}
    assert found["sentences"] == {"en": ["right cup", "cup right of the jug"]}
    assert np.array_equal(mask_array(found["mask"]), mask[:, ::-1])
    assert after["captions"] == {"en": ["a cup on the right"], "de": "rechts eine tasse"}
    assert after["image"].getpixel((19, 0)) == (0, 0, 255)
    # nobody has vouched for it
    assert "position" not in found


@pytest.mark.parametrize(
    "texts",
    [
        {"captions": {"en": "a cup right next to a jug"}},
        {"captions": {"en": "a cup", "xx": "?"}},
        {"captions": {"en": ["a cup", "number 5"]}},
        {"words": [{"text": "exit", "box": Box(0.5, 0.5, 0.9, 0.9)}]},
        {"objects": [{"box": Box(0, 0, 1, 1), "names": {"en": "a"}, "sentences": {"en": ["the one right behind"]}}]},
    ],
)
def test_what_a_mirror_would_make_untrue_stays(texts):
    record = record_with(**texts)
    assert flipped(record) is record


def square(left, top, right, bottom, **more):
    """An object of the 20 x 10 image, in pixels."""
    mask = np.zeros((10, 20), bool)
    mask[top:bottom, left:right] = True
    return {"box": mask_box(mask), "mask": mask, "names": {"en": "a"}, **more}


def test_a_crop_keeps_drops_and_refuses():
    record = record_with(objects=[square(2, 2, 6, 6, visible=1.0), square(14, 4, 18, 8)])
    after = crop_to(Window(0, 0, 10, 10), record)
    assert [item["box"] for item in after["objects"]] == [Box(0.2, 0.2, 0.6, 0.6)]
    assert after["image"].size == (10, 10)
    assert after["objects"][0]["visible"] == 1
    # three quarters of the first are enough, half is neither here nor there
    after = crop_to(Window(3, 0, 10, 10), record)
    assert (after["objects"][0]["box"], after["objects"][0]["visible"]) == (Box(0, 0.2, 0.3, 0.6), 0.75)
    assert crop_to(Window(4, 0, 10, 10), record) is None
    # every object gone is no image to learn from
    assert crop_to(Window(7, 0, 6, 10), record) is None
    assert crop_to(Window(7, 0, 6, 10), record_with(objects=[])) is not None
    # captions may speak of what is dropped
    assert crop_to(Window(0, 0, 10, 10), record | {"captions": {"en": "two"}}) is None
    assert crop_to(Window(1, 1, 18, 8), record | {"captions": {"en": "two"}})["captions"] == {"en": "two"}
    assert crop_to(Window(1, 1, 18, 8), record_with(captions={"en": "two"})) is None
    word = {"text": "exit", "box": Box(0.05, 0.1, 0.5, 0.3)}
    assert crop_to(Window(1, 1, 18, 8), record | {"words": [word]})["words"][0]["box"].x0 == 0
    assert crop_to(Window(2, 1, 18, 8), record | {"words": [word]}) is None
    assert crop_to(Window(2, 2, 17, 8), record_with(objects=[square(2, 2, 6, 6)], words=[])) is not None


def test_a_cut_shape_has_the_box_of_what_is_left():
    mask = np.zeros((10, 20), bool)
    mask[0:10, 4:12] = True
    mask[5:10, 0:4] = True
    mask[9, 0:4] = True
    item = {"box": mask_box(mask), "mask": mask, "names": {"en": "a"}}
    after = crop_to(Window(0, 0, 20, 9), record_with(objects=[item]))
    assert after["objects"][0]["box"] == mask_box(mask[:9])
    bare = {"box": Box(0, 0, 0.6, 1), "names": {"en": "a"}}
    assert crop_to(Window(0, 0, 20, 9), record_with(objects=[bare]))["objects"][0]["box"] == Box(0, 0, 0.6, 1)
    diagonal = np.triu(np.ones((10, 20), bool), 2)
    item = {"box": mask_box(diagonal), "mask": diagonal, "names": {"en": "a"}}
    (left,) = crop_to(Window(0, 2, 20, 8), record_with(objects=[item]))["objects"]
    # its first columns were in the rows that are gone
    assert left["box"] == Box(0.2, 0, 1, 1)


def test_a_image_that_cannot_be_cropped_stays_whole():
    record = record_with(objects=[square(0, 0, 20, 10)])
    assert cropped(record, (0.3, 0.5), random.Random(0)) is record


def test_zooming_out_to_the_same_size_and_into_every_corner():
    record = record_with(objects=[square(2, 2, 6, 6)])
    same = zoomed_out(record, 1.0, random.Random(0))
    assert same["image"].tobytes() == record["image"].tobytes()
    places = set()
    for seed in range(40):
        after = zoomed_out(record, 1.1, random.Random(seed))
        assert after["image"].size == (22, 11)
        exact(after)
        places.add((after["objects"][0]["box"].x0, after["objects"][0]["box"].y0))
    assert len(places) == 6
    assert after["image"].getpixel((0, 0)) in ((128, 128, 128), (0, 0, 255))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flip": 2}, "augment: flip is a probability, not 2"),
        ({"flip": "yes"}, "flip is a probability"),
        ({"crop": [0, 1]}, r"augment: crop is \[least, largest\] from 0 to 1, not \[0, 1\]"),
        ({"crop": [0.5, 1.1]}, "crop is"),
        ({"crop": 0.7}, "crop is"),
        ({"zoom_out": [0.5, 2]}, r"zoom_out is \[least, largest\] from 1 to 8"),
        ({"zoom_out": [2, 1]}, "zoom_out is"),
        ({"filp": 0.5}, "augment has no option 'filp'. Did you mean 'flip'?"),
        ("flip", "augment is a mapping with some of flip, crop, zoom_out, not 'flip'"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        load_source({"name": "emoji", "augment": options})


def test_texts_of_ones_own_cannot_be_followed(write_jsonl):
    path = write_jsonl([{"image": "good.png", "prefix": "detect dog", "suffix": "<loc0001>"}])
    source = load_source({"name": "jsonl", "path": str(path), "augment": {"flip": 1}})
    with pytest.raises(ValueError, match="record my.jsonl:1 has several images or texts of its own"):
        TaskDataset(source, load_task({"name": "plain"}))[0]


def test_the_built_in_images_are_rewritten(drawings):
    spec = {"name": "emoji", "objects": [2, 4], "length": 40, "size": 96, "cache_dir": str(drawings)}
    source = load_source(spec | {"augment": {"flip": 1.0, "crop": [0.4, 0.7]}})
    assert isinstance(source, Augmented)
    plain, fewer = load_source(spec), 0
    for index in range(40):
        record, before = source[index], plain[index]
        assert record["captions"] == source[index]["captions"]
        names = [item["concept"] for item in record["objects"]]
        assert all(name in record["captions"]["en"] or names.count(name) > 1 for name in names)
        gone = {item["concept"] for item in before["objects"]} - set(names)
        assert not any(name in record["captions"]["en"].replace("fire truck", "") for name in gone)
        assert [item["position"] for item in record["objects"]] == [
            grid_position(item["box"]) for item in record["objects"]
        ]
        assert record["objects"] == sorted(record["objects"], key=reading_order)
        fewer += len(names) < len(before["objects"])
        exact(record)
    assert fewer > 5


def test_a_dataset_draws_changes_with_its_choices(drawings):
    spec = {"name": "emoji", "objects": [1, 1], "length": 20, "cache_dir": str(drawings)}
    data = TaskDataset(
        load_source(spec | {"augment": {"flip": 0.5, "zoom_out": [1, 2]}}), load_task({"name": "detect"})
    )
    boxes = [[data[epoch, index].boxes[0] for epoch in range(3)] for index in range(20)]
    assert boxes == [[data[epoch, index].boxes[0] for epoch in range(3)] for index in range(20)]
    assert [row[0] for row in boxes] == [data[index].boxes[0] for index in range(20)]
    assert len({box for row in boxes for box in row}) == 60
    plain = TaskDataset(load_source(spec), load_task({"name": "detect"}))
    assert {plain[epoch, 4].suffix for epoch in range(5)} == {plain[4].suffix}
    assert data.source.name == plain.source.name == "emoji"


def test_grounded_targets_follow(drawings, codec):
    """From record to target: what a flipped example says is where its things are now."""
    spec = {"name": "emoji", "objects": [2, 3], "length": 30, "size": 96, "cache_dir": str(drawings)}
    refer = load_task({"name": "refer", "codec": codec})
    data = TaskDataset(load_source(spec | {"augment": {"flip": 1.0}}), refer)
    sides = 0
    for index in range(30):
        example = data[index]
        (box,), (mask,) = example.boxes, example.masks
        assert iou(mask_box(mask_array(mask)), box) > 1 - 1e-6
        if example.prefix.endswith("left"):
            assert box.x0 + box.x1 < 1
            sides += 1
        if example.prefix.endswith("right"):
            assert box.x0 + box.x1 > 1
            sides += 1
    assert sides > 3
