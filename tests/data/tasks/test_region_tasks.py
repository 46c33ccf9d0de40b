import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from coco_files import HEIGHT, WIDTH, bar
from PIL import Image
from torch.utils.data import DataLoader

from openpali.data.example import Box
from openpali.data.masks.mask_tokenizer import load_codec
from openpali.data.masks.objects import choose_things, reading_order
from openpali.data.masks.rle import decode_rle, encode_rle, mask_array
from openpali.data.mixture import TaskDataset
from openpali.data.sources import load_source
from openpali.data.sources.builtin.emoji import EmojiScenes
from openpali.data.tasks import load_task
from openpali.data.tasks.red_box import draw_red_box
from openpali.modeling.location_tokens import LocatedBox, parse_detections
from openpali.modeling.mask_pixels import crop_mask
from openpali.modeling.segmentation_tokens import parse_segmentations

FIXTURES = Path(__file__).parents[2] / "fixtures"
TASKS = ["detect", "segment", "refer", "grounded_caption", "red_box"]


@pytest.fixture(scope="module")
def records(drawings):
    source = EmojiScenes(objects=(1, 4), length=80, size=96, cache_dir=drawings)
    return [source[index] for index in range(80)]


def task_with(codec, name, **options):
    return load_task({"name": name, **options} | ({"codec": codec} if name in ("segment", "refer") else {}))


def examples(task, records):
    found = [(record, task.example(record, random.Random(n))) for n, record in enumerate(records)]
    return [(record, example) for record, example in found if example is not None]


def half_a_bin(box: LocatedBox, true: Box) -> bool:
    return np.allclose(box[:4], (true.y0, true.x0, true.y1, true.x1), atol=0.5001 / 1023)


def codes_of(codec, mask, box) -> list[int]:
    square = crop_mask(torch.from_numpy(mask), LocatedBox(box.y0, box.x0, box.y1, box.x1), 16)
    return load_codec(codec).encode(square[None])[0].tolist()


@pytest.mark.parametrize("order", ["reading", "shuffled"])
def test_segmentations_are_the_masks_of_every_such_thing(order, records, codec):
    task = task_with(codec, "segment", most_things=2, order=order)
    found = examples(task, records)
    assert len(found) == 80
    orders = set()
    for record, example in found:
        things = example.prefix.removeprefix("segment ").split(" ; ")
        expected = [item for item in record["objects"] if item["concept"] in things]
        read = parse_segmentations(example.suffix)
        assert read.rejected == []
        assert len(read.masks) == len(example.boxes) == len(example.masks) == len(expected)
        by_box = {(item["box"].x0, item["box"].y0): item for item in expected}
        for (box, codes), true, rle in zip(read.masks, example.boxes, example.masks, strict=True):
            item = by_box[true.x0, true.y0]
            assert half_a_bin(box, item["box"])
            assert box.label == true.label == item["concept"]
            assert np.array_equal(decode_rle(rle), item["mask"])
            assert list(codes) == codes_of(codec, item["mask"], item["box"])
        orders.add([box.x0 for box in example.boxes] == [item["box"].x0 for item in expected])
    assert orders == ({True} if order == "reading" else {True, False})


def test_what_is_scored_has_the_size_of_the_image(records, codec):
    task = task_with(codec, "segment")
    for record, example in examples(task, records[:20]):
        reference = task.reference(example)
        assert [decode_rle(one["mask"]).tolist() for one in reference] == [
            item["mask"].tolist() for item in record["objects"] if item["concept"] == example.boxes[0].label
        ]
        found = task.prediction(example.suffix + " ; <loc0001> rubbish", example)
        assert len(found) == len(reference)
        masks, boxes, _ = load_codec(codec).read(example.suffix, 96, 96)
        for one, mask, box, true in zip(found, masks, boxes, example.boxes, strict=True):
            assert one == {"box": list(box.normalised_xyxy()), "label": true.label, "mask": encode_rle(mask.numpy())}
        assert task.prediction("nothing", example) == []
        json.dumps([found, reference])


def test_a_thing_without_a_mask_is_not_asked_for(codec):
    thing = {"box": Box(0, 0, 0.5, 0.5), "names": {"en": "cat"}}
    masked = {"box": Box(0.5, 0.5, 1, 1), "names": {"en": "dog"}, "mask": encode_rle(bar(30, 20, 60, 40))}
    record = {"id": "1", "image": Image.new("RGB", (WIDTH, HEIGHT)), "objects": [thing, masked]}
    task = task_with(codec, "segment", most_things=5)
    assert task.example(record, random.Random(0)).prefix == "segment dog"
    record["objects"].append({**thing, "mask": bar(0, 0, 30, 20)})
    assert task.example(record, random.Random(0)).prefix == "segment dog"
    thin = {**thing, "mask": bar(0, 0, 0, 0)}
    assert task.example({**record, "objects": [thin]}, random.Random(0)) is None
    for name in ("segment", "refer"):
        assert task_with(codec, name).example({**record, "objects": [thing]}, random.Random(0)) is None
    # a box between the middles of two pixels has the place of its mask
    narrow = {**masked, "box": Box(0.5, 0.5, 30.4 / 60, 1), "mask": bar(30, 20, 31, 40)}
    assert parse_segmentations(task.example({**record, "objects": [narrow]}, random.Random(0)).suffix).rejected == []


def test_referring_is_a_bare_sentence_and_one_mask(records, codec):
    task = task_with(codec, "refer")
    found = examples(task, records)
    assert len(found) > 75
    for record, example in found:
        (box,), (rle,) = example.boxes, example.masks
        (item,) = [item for item in record["objects"] if item["box"].x0 == box.x0 and item["box"].y0 == box.y0]
        assert item["concept"] in example.prefix or "thing" in example.prefix
        (mask,) = parse_segmentations(example.suffix).masks
        assert half_a_bin(mask.box, item["box"])
        assert mask.box.label == box.label == ""
        assert list(mask.codes) == codes_of(codec, item["mask"], item["box"])
        assert np.array_equal(decode_rle(rle), item["mask"])
        assert task.reference(example) == [{"box": [box.x0, box.y0, box.x1, box.y1], "label": "", "mask": rle}]


def test_the_first_mask_of_an_answer_counts(records, codec):
    task = task_with(codec, "refer")
    example = task.example(records[0], random.Random(0))
    once = task.prediction(example.suffix, example)
    assert len(once) == 1
    for more in (" a dog", "<seg001>", f" ; {example.suffix}"):
        assert task.prediction(example.suffix + more, example) == once
    for bad in (
        "",
        "dog " + example.suffix,
        example.suffix[9:],
        example.suffix[:-8],
        "<loc0009>" * 4 + "<seg001>" * 16,
    ):
        assert task.prediction(bad, example) == []


def test_boxes_without_masks(records, tmp_path):
    task = load_task({"name": "refer", "boxes_only": True, "prompt": "where is {sentence}?", "codec": str(tmp_path)})
    assert (task.metric, task.metric_key) == ("detection", "f1")
    example = task.example(records[0], random.Random(0))
    assert example.prefix == f"where is {example.meta['sentence']}?"
    assert example.masks == ()
    (found,) = task.prediction(example.suffix + " and so on", example)
    box = example.boxes[0]
    assert found["box"] == pytest.approx([box.x0, box.y0, box.x1, box.y1], abs=5e-4)
    assert task.reference(example) == [{"box": [box.x0, box.y0, box.x1, box.y1], "label": "", "mask": None}]
    for bad in ("", "x" + example.suffix, example.suffix[9:], "<loc0009>" * 4):
        assert task.prediction(bad, example) == []
    with pytest.raises(ValueError, match="must hold {sentence}"):
        load_task({"name": "refer", "prompt": "segment"})


def test_regions_are_named(records):
    task = load_task({"name": "grounded_caption", "language": "de"})
    for record, example in examples(task, records):
        (read,) = parse_detections(example.prefix.removeprefix("caption ") + " x").boxes
        (item,) = [item for item in record["objects"] if half_a_bin(read, item["box"])]
        assert example.suffix == item["names"]["de"] == example.boxes[0].label
    image = Image.new("RGB", (9, 9))
    told = {"box": Box(0, 0, 1, 1), "names": {"en": "a"}, "sentences": {"en": ["the one", "the two"]}}
    example = load_task({"name": "grounded_caption"}).example(
        {"id": "1", "image": image, "objects": [told]}, random.Random(0)
    )
    assert example.prefix == "caption <loc0000><loc0000><loc1023><loc1023>"
    assert example.suffix in example.references == ("the one", "the two")
    assert task.example({"id": "1", "image": image, "objects": [told]}, random.Random(0)) is None


def test_the_red_box_is_the_authors():
    with np.load(FIXTURES / "red_box.npz") as arrays:
        image, boxed, plain = (arrays[name] for name in ("image", "boxed", "plain"))
    # the box with which big_vision drew it, as far as its pixels show
    box = Box(0.1, 0.2, 0.6, 0.8)
    record = {"id": "1", "image": Image.fromarray(image), "objects": [{"box": box, "names": {"en": "a"}}]}
    example = load_task({"name": "red_box", "size": 28}).example(record, random.Random(0))
    assert example.prefix == "caption en"
    ours = np.asarray(example.images[0], np.float32) / 127.5 - 1
    line = np.abs(boxed - plain).max(axis=2) > 0
    assert line.sum() == 60
    assert np.array_equal(ours[line], boxed[line])
    # outside it only the rounding of the resized image differs
    assert np.abs(ours - boxed)[~line].max() <= 1.01 / 127.5


def test_the_red_box_on_a_image_of_any_size():
    record = {"id": "1", "image": Image.new("RGB", (900, 400)), "objects": []}
    record["objects"] = [{"box": Box(0.25, 0.25, 0.75, 0.75), "names": {"en": "a"}}]
    example = load_task({"name": "red_box"}).example(record, random.Random(0))
    red = np.asarray(example.images[0])[:, :, 0] == 255
    assert red[200].sum() == 2 * 4
    assert np.asarray(record["image"]).max() == 0
    edge = np.asarray(draw_red_box(Image.new("RGB", (20, 10)), Box(0, 0, 1, 1)))[:, :, 0]
    assert all(side.all() for side in (edge[0], edge[-1], edge[:, 0], edge[:, -1]))
    assert not edge[1:-1, 1:-1].any()


def test_what_is_asked_for_can_be_restricted():
    def thing(name, x, y=0.1):
        return {"names": {"en": name}, "box": Box(x, y, x + 0.1, y + 0.1)}

    objects = [thing("dog", 0.8), thing("cat", 0.5), thing("dog", 0.1), thing("car", 0.3, 0.8), thing("man", 0.6)]
    rng = random.Random(0)
    names, chosen = choose_things(objects, ["man"], rng, "en", most_things=9, most_boxes=1)
    assert set(names) <= {"cat", "car"}
    assert len(chosen) == len(names)
    seen = {tuple(choose_things(objects, ["man"], rng, "en", 9)[0]) for _ in range(200)}
    assert ("dog", "cat", "car") in seen
    assert all(names == tuple(name for name in ("dog", "cat", "car") if name in names) for names in seen)
    assert choose_things(objects, [], rng, "en", things=["bird"]) == ([], [])
    names, chosen = choose_things(objects, [], rng, "en", things=["dog"])
    assert (names, chosen) == (["dog"], [objects[2], objects[0]])
    assert sorted(objects, key=reading_order)[-1] is objects[3]
    task = load_task({"name": "detect", "things": "dog", "order": "shuffled"})
    record = {"id": "1", "image": Image.new("RGB", (9, 9)), "objects": objects}
    answers = {task.example(record, random.Random(n)).suffix for n in range(20)}
    assert len(answers) == 2
    assert {task.example(record, random.Random(n)).prefix for n in range(20)} == {"detect dog"}
    with pytest.raises(ValueError, match="order is one of reading, shuffled, not 'random'"):
        load_task({"name": "segment", "order": "random"})


def test_workers_write_masks_too(codec, drawings):
    """Each process loads the codec for itself, also when the one that it comes from has used its own."""
    source = EmojiScenes(length=12, cache_dir=drawings)
    data = TaskDataset(source, task_with(codec, "segment"))
    here = [data[index].suffix for index in range(12)]
    loader = DataLoader(data, batch_size=None, num_workers=2, collate_fn=lambda example: example, timeout=60)
    assert [example.suffix for example in loader] == here


def test_no_codec_is_reported_with_the_remedy(tmp_path, records):
    for name in (str(tmp_path), "outputs/none", "none"):
        with pytest.raises(ValueError, match=r"no mask codec at .*`make mask-vqvae`.*convert_mask_vqvae.*`codec`"):
            load_task({"name": "segment", "codec": name}).example(records[0], random.Random(0))
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(ValueError, match="cannot be loaded as a mask codec"):
        load_codec(str(tmp_path))


@pytest.mark.parametrize("name", ["detect", "segment"])
def test_a_image_without_objects_has_an_empty_answer(name, codec, records):
    task = task_with(codec, name, classes=["dog", "cat"])
    example = task.example(records[0] | {"objects": []}, random.Random(0))
    assert example is not None
    assert (example.prefix, example.suffix) == (f"{name} dog ; cat", "")
    assert (example.boxes, example.masks) == ((), ())
    assert task.reference(example) == task.prediction("", example) == []


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("augment", [None, {"flip": 0.5, "crop": [0.5, 1], "zoom_out": [1, 2]}])
@pytest.mark.parametrize("source", ["emoji", "coco", "refer"])
def test_every_task_on_every_source(name, source, augment, codec, coco, tmp_path, drawings):
    if source == "emoji":
        spec = {"name": "emoji", "size": 64, "objects": [1, 3], "length": 6, "cache_dir": str(drawings)}
    elif source == "coco":
        spec = {"name": "coco", "path": str(coco.write()), "image_root": str(coco.root)}
    else:
        entry = {"image": "b.png", "sentences": ["left cup", "a cup"], "bbox": [4, 5, 20, 10]}
        entry |= {"segmentation": [[4, 5, 24, 5, 24, 15, 4, 15]]}
        (tmp_path / "refs.json").write_text(json.dumps([entry]))
        spec = {"name": "refer", "path": str(tmp_path / "refs.json"), "image_root": str(coco.root)}
    task = task_with(codec, name, **({"size": 32} if name == "red_box" else {}))
    data = TaskDataset(load_source(spec | ({"augment": augment} if augment else {})), task, seed=1)
    for index in range(len(data)):
        example = data[index]
        assert example.prefix
        assert example.suffix
        assert example.boxes
        right = task.prediction(example.suffix, example)
        reference = task.reference(example)
        if name in ("detect", "segment", "refer"):
            assert len(right) == len(reference) == len(example.boxes)
            for one, box in zip(right, example.boxes):
                assert one["box"] == pytest.approx([box.x0, box.y0, box.x1, box.y1], abs=5e-4)
        else:
            assert right in reference
        size = [example.images[0].height, example.images[0].width]
        assert all(mask["size"] == size and mask_array(mask).any() for mask in example.masks)
