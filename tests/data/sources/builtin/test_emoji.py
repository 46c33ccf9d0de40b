import hashlib
import multiprocessing
import pickle

import numpy as np
import pytest

from openpali.data.sources.builtin.emoji import SPLITS, EmojiScenes
from openpali.data.sources.builtin.phrases import COLOURS, LANGUAGES, POSITIONS
from openpali.data.sources.builtin.placement import grid_position, mask_box


def digest(record) -> str:
    content = record["image"].tobytes() + b"".join(item["mask"].tobytes() for item in record["objects"])
    words = repr((record["captions"], record["words"], record["absent"], [item["box"] for item in record["objects"]]))
    return hashlib.sha256(content + words.encode()).hexdigest()


@pytest.fixture(scope="module")
def scenes(drawings):
    source = EmojiScenes(objects=(1, 4), length=60, cache_dir=drawings, words=True)
    return [source[index] for index in range(len(source))]


def test_boxes_are_exactly_the_masks(scenes):
    for record in scenes:
        for item in record["objects"]:
            mask, box = item["mask"], item["box"]
            assert mask.dtype == bool
            assert mask.shape == (64, 64)
            ys, xs = np.where(mask)
            assert (box.x0, box.y0, box.x1, box.y1) == tuple(
                np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) / 64
            )
            assert box.label == item["concept"]
            assert item["position"] == grid_position(box)


def test_objects_can_be_seen_and_masks_do_not_overlap(scenes):
    for record in scenes:
        assert sum(item["mask"].astype(int) for item in record["objects"]).max() == 1
        assert all(item["visible"] >= 0.7 for item in record["objects"])


def test_masks_are_where_the_drawing_changed_the_background(drawings, monkeypatch):
    """Compose over one colour: outside the masks nothing but the soft edge of a drawing may differ from it."""
    from PIL import Image

    from openpali.data.sources.builtin import emoji as module

    magenta = (255, 0, 255)
    monkeypatch.setattr(module, "background", lambda size, rng: Image.new("RGB", (size, size), magenta))
    source = EmojiScenes(objects=(1, 3), length=30, cache_dir=drawings)
    for index in range(30):
        record = source[index]
        changed = np.abs(np.asarray(record["image"], int) - magenta).sum(axis=2)
        covered = np.any([item["mask"] for item in record["objects"]], axis=0)
        assert (changed[covered] > 0).all()
        # a pixel outside every mask is covered by half at most
        assert changed[~covered].max() <= 0.51 * 3 * 255
        far = ~covered & ~np.pad(covered, 2)[:-4, 2:-2] & ~np.pad(covered, 2)[4:, 2:-2]
        far &= ~np.pad(covered, 2)[2:-2, :-4] & ~np.pad(covered, 2)[2:-2, 4:]
        assert (changed[far] > 0).mean() < 0.02


def test_records_describe_what_is_there(scenes):
    for record in scenes:
        assert record["image"].mode == "RGB"
        assert record["image"].size == (64, 64)
        assert 1 <= len(record["objects"]) <= 4
        present = {item["concept"] for item in record["objects"]}
        assert len(record["absent"]) == 2
        assert not present & {item["concept"] for item in record["absent"]}
        assert set(record["captions"]) == set(LANGUAGES)
        for item in record["objects"]:
            assert item["colour"] in {None, *COLOURS}
            assert item["position"] in POSITIONS
            assert set(item["names"]) == set(LANGUAGES)
            assert all(item["names"][language] in record["captions"][language] for language in ("es", "de", "zh"))
        assert 1 <= len(record["words"]) <= 3


def test_copies_occur_so_that_counting_has_a_point(drawings):
    source = EmojiScenes(objects=(2, 4), length=200, cache_dir=drawings)
    most = [max(_counts(source[index]).values()) for index in range(200)]
    assert 0.3 < np.mean([count > 1 for count in most]) < 0.8
    assert max(most) >= 3


def _counts(record) -> dict[str, int]:
    concepts = [item["concept"] for item in record["objects"]]
    return {concept: concepts.count(concept) for concept in concepts}


@pytest.mark.parametrize(("size", "objects"), [(32, (9, 9)), (64, (4, 4)), (96, (2, 2))])
def test_the_asked_number_of_objects_always_fits(size, objects, drawings):
    source = EmojiScenes(size=size, objects=objects, length=40, cache_dir=drawings)
    assert {len(source[index]["objects"]) for index in range(40)} == {objects[0]}


def test_words_are_in_reading_order_and_apart(scenes):
    for record in scenes:
        boxes = [word["box"] for word in record["words"]]
        assert [box.label for box in boxes] == [word["text"] for word in record["words"]]
        for above, below in zip(boxes, boxes[1:]):
            same_line = (below.y0 + below.y1) / 2 < above.y1
            assert below.x0 > above.x0 if same_line else below.y1 > above.y0
        for i, one in enumerate(boxes):
            for other in boxes[:i]:
                apart = one.x0 >= other.x1 or other.x0 >= one.x1 or one.y0 >= other.y1 or other.y0 >= one.y1
                assert apart


def test_written_words_are_legible_in_the_image(scenes):
    """Inside a word's box, its ink and its outline differ strongly in brightness."""
    for record in scenes:
        grey = np.asarray(record["image"].convert("L"), int)
        for word in record["words"]:
            box = word["box"]
            part = grey[round(box.y0 * 64) : round(box.y1 * 64), round(box.x0 * 64) : round(box.x1 * 64)]
            assert np.ptp(part) > 100


def test_scenes_are_a_pure_function_of_seed_split_and_index(drawings):
    source = EmojiScenes(objects=(1, 4), length=10, words=True, cache_dir=drawings)
    forwards = [digest(source[index]) for index in range(10)]
    again = EmojiScenes(objects=(1, 4), length=99, words=True, cache_dir=drawings)
    assert [digest(again[index]) for index in reversed(range(10))][::-1] == forwards
    assert [digest(pickle.loads(pickle.dumps(source))[index]) for index in range(3)] == forwards[:3]


def _digests(folder):
    source = EmojiScenes(objects=(1, 4), length=10, words=True, cache_dir=folder)
    return [digest(source[index]) for index in range(10)]


def test_another_process_makes_the_same_scenes(drawings):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_digests, (drawings,)) == _digests(drawings)


def test_no_scene_of_one_split_is_in_another_whatever_the_seeds(drawings):
    found: dict[str, tuple] = {}
    for seed in (0, 1, 10):
        for split in SPLITS:
            source = EmojiScenes(split, length=40, seed=seed, cache_dir=drawings)
            for index in range(40):
                record = source[index]
                key = hashlib.sha256(record["image"].tobytes()).hexdigest()
                assert key not in found, (found[key], record["id"])
                found[key] = (split, seed, index)
    assert len(found) == 9 * 40


def test_seeds_of_scenes_are_unlike_for_every_split_and_seed(monkeypatch, drawings):
    """The very strings that seed the generator: none is used for two (seed, split, index)."""
    from openpali.data.sources.builtin import emoji as module

    used = []
    original = module.random.Random
    monkeypatch.setattr(module.random, "Random", lambda text: (used.append(text), original(text))[1])
    for seed in (0, 1, 11):
        for split in SPLITS:
            source = EmojiScenes(split, length=120, seed=seed, cache_dir=drawings)
            for index in (0, 1, 10, 11, 111):
                source[index]
    assert len(used) == len(set(used)) == 3 * 3 * 5


def test_held_out_concepts_never_appear_in_seen_scenes(drawings):
    seen = EmojiScenes(concepts=200, length=1, cache_dir=drawings)
    held_out = EmojiScenes(concepts=50, length=1, concept_split="held_out", cache_dir=drawings)
    assert not {c["concept"] for c in seen.concepts} & {c["concept"] for c in held_out.concepts}
    names = {concept["concept"] for concept in held_out.concepts}
    source = EmojiScenes(concepts=50, length=20, concept_split="held_out", cache_dir=drawings)
    assert {item["concept"] for index in range(20) for item in source[index]["objects"]} <= names


def test_ids_differ_between_sources_that_look_different(drawings):
    options = [{}, {"size": 96}, {"words": True}, {"concept_split": "held_out"}, {"split": "test"}, {"seed": 1}]
    assert len({EmojiScenes(cache_dir=drawings, **option)[0]["id"] for option in options}) == len(options)


def test_every_concept_comes_up_about_equally_often(drawings):
    source = EmojiScenes(objects=(1, 1), length=640, cache_dir=drawings)
    names = [source[index]["objects"][0]["concept"] for index in range(640)]
    counts = np.array([names.count(concept["concept"]) for concept in source.concepts])
    assert counts.sum() == 640
    assert counts.min() >= 6
    assert counts.max() <= 40


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "dev"}, "split is one of"),
        ({"objects": (3, 2)}, "give fewest and most"),
        ({"objects": (0, 0)}, "give fewest and most"),
        ({"objects": (1, 10)}, "0 to 9"),
        ({"size": 16}, "size is at least 32"),
        ({"size": 40, "words": True}, "size is at least 48"),
        ({"length": 0}, "length at least 1"),
        ({"concepts": 3}, "need at least 4"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        EmojiScenes(**options)


def test_indices_end(drawings):
    source = EmojiScenes(length=2, cache_dir=drawings)
    with pytest.raises(IndexError, match="scene 2 of 2"):
        source[2]


def test_boxes_and_positions_of_known_masks():
    mask = np.zeros((10, 20), bool)
    mask[2:5, 10:20] = True
    box = mask_box(mask, "x")
    assert (box.x0, box.y0, box.x1, box.y1) == (0.5, 0.2, 1.0, 0.5)
    assert grid_position(box) == "right"
    mask[:] = True
    assert grid_position(mask_box(mask)) == "center"


def test_the_number_of_words_can_be_set(drawings):
    def counts(words):
        scenes = EmojiScenes(words=words, objects=(1, 1), length=40, cache_dir=drawings)
        return {len(scenes[index]["words"]) for index in range(40)}

    assert counts((1, 1)) == {1}
    assert counts([0, 2]) >= {0, 1, 2}
    assert counts(False) == {0}
    with pytest.raises(ValueError, match=r"words=\[3, 1\]: give fewest and most"):
        counts([3, 1])
