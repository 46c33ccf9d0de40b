"""The step `boxes`, on tiny random detectors that are saved to disk."""

import pickle
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_label_models import tiny_grounding_dino, tiny_owlv2, tiny_sam
from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

from openpali.data.example import Box
from openpali.data.tasks import load_task
from openpali.modeling.user_errors import CheckpointError, UserError
from openpali.scripts.web.labelling.detectors import Found, best_boxes, candidates, name_scores
from openpali.scripts.web.running.registry import step_class
from openpali.scripts.web.running.samples import WebSample, merged
from openpali.scripts.web.steps.boxes import Boxes

THINGS = ("dog", "red cat", "bus")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("detectors")
    made = {"owlv2": tiny_owlv2, "dino": tiny_grounding_dino}
    return {name: str(make(folder / name)) for name, make in made.items()}


def image(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


IMAGES = [image(60, 40), image(32, 64, 1), image(20, 20, 2)]


def samples(**record) -> list[WebSample]:
    return [WebSample("shard", number, str(number), own, dict(record)) for number, own in enumerate(IMAGES)]


@pytest.mark.parametrize("kind", ["owlv2", "dino"])
def test_what_is_found_becomes_an_example_of_detect(kind, folders):
    step = step_class("boxes")(model=folders[kind], things=THINGS, least_score=0.0, most_boxes=3)
    verdicts = step(samples())
    assert step(samples()) == verdicts
    for verdict in verdicts:
        record = merged({}, verdict)
        assert len(record["objects"]) == verdict.values["objects"] <= 3
        assert record["label_models"]["objects"].startswith(f"{folders[kind]} (transformers 5.")
        for item in record["objects"]:
            assert item["names"]["en"] in THINGS
            assert item["model"] == record["label_models"]["objects"]
            x0, y0, x1, y1 = item["box"]
            assert 0 <= x0 < x1 <= 1
            assert 0 <= y0 < y1 <= 1
        scores = [item["score"] for item in record["objects"]]
        assert scores == sorted(scores, reverse=True)
    # of a random detector, some images have candidates only in the padding
    records = [merged({}, verdict) for verdict in verdicts if verdict.labels["objects"]]
    assert len(records) > 1
    for record in records:
        objects = [item | {"box": Box(*item["box"])} for item in record["objects"]]
        made = load_task({"name": "detect"}).example(
            {"id": "1", "image": IMAGES[0], "objects": objects}, random.Random(0)
        )
        assert made is not None
        assert made.prefix.removeprefix("detect ") in THINGS


@torch.no_grad()
@pytest.mark.parametrize("kind", ["owlv2", "dino"])
def test_boxes_and_scores_are_those_of_transformers(kind, folders):
    """Of its own post-processing, for one image and all names at once."""
    model = AutoModelForZeroShotObjectDetection.from_pretrained(folders[kind]).eval()
    processor = AutoProcessor.from_pretrained(folders[kind])
    texts = [f"a photo of a {name}" for name in THINGS] if kind == "owlv2" else list(THINGS)
    for own in IMAGES:
        inputs = processor(images=[own], text=[texts], return_tensors="pt", truncation=True)
        options = {"threshold": 0.0, "target_sizes": [own.size[::-1]]}
        (found,) = processor.post_process_grounded_object_detection(model(**inputs), **options)
        ((boxes, scores),) = candidates(folders[kind], "auto", [own], [THINGS])
        expected = found["boxes"] / torch.tensor(own.size * 2)
        # coordinates of a float32 over a few dozen pixels
        torch.testing.assert_close(boxes, expected.clamp(0, 1), atol=1e-5, rtol=0)
        if kind == "dino":
            # there a full stop may have the best score
            assert bool((scores.amax(dim=1) <= found["scores"] + 1e-5).all())
            assert bool((scores.amax(dim=1) - found["scores"]).abs().median() < 1e-5)
        else:
            torch.testing.assert_close(scores.amax(dim=1), found["scores"], atol=1e-5, rtol=1e-4)
            labelled = scores.gather(1, found["labels"][:, None])[:, 0]
            torch.testing.assert_close(labelled, found["scores"], atol=1e-5, rtol=1e-4)


def test_each_image_is_asked_for_its_own_names(folders):
    """Images with fewer names are padded in a batch, whose padding is never an answer."""
    names = [["dog"], ["dog", "bus", "car", "red cat"], ["bus", "car"]]
    together = candidates(folders["owlv2"], "auto", IMAGES, names)
    assert [scores.shape[1] for _, scores in together] == [1, 4, 2]
    for own, asked, (boxes, scores) in zip(IMAGES, names, together):
        ((alone, alone_scores),) = candidates(folders["owlv2"], "auto", [own], [asked])
        # a batch is summed in another order: some last bits of coordinates in [0, 1], a few more of their logits
        torch.testing.assert_close(boxes, alone, atol=1e-5, rtol=0)
        torch.testing.assert_close(scores, alone_scores, atol=1e-4, rtol=1e-3)


def test_the_score_of_a_name_is_that_of_its_best_token():
    # [CLS] a . b c . [SEP] and a name in parts
    ids = [101, 7, 1012, 8, 9, 1012, 102, 0]
    scores = torch.tensor([[9.0, 0.1, 8.0, 0.2, 0.7, 8.0, 9.0, 9.0], [9.0, 0.6, 8.0, 0.5, 0.3, 8.0, 9.0, 9.0]])
    # scores are chosen, not computed
    assert torch.equal(name_scores(scores, ids, 1012, 2), torch.tensor([[0.1, 0.7], [0.6, 0.5]]))


def test_names_come_from_english_captions_without_a_list(folders):
    step = Boxes(model=folders["owlv2"], least_score=0.0)
    captions = {"en": ["A dog on a red sofa.", "two dogs and a cup"], "de": "ein Hund"}
    sample = replace(samples(captions=captions)[0])
    assert step.names(sample) == ["dog", "sofa", "cup"]
    assert Boxes(model=folders["owlv2"], most_things=1).names(sample) == ["dog"]
    (verdict,) = step([sample])
    assert {item["names"]["en"] for item in verdict.labels["objects"]} <= {"dog", "sofa", "cup"}
    # nothing to look for is no label of the model, and no gap for tasks that need `objects`
    verdicts = step(samples(captions={"de": "ein Hund"}))
    assert [(own.labels, own.models) for own in verdicts] == [({"objects": []}, {})] * 3


def test_what_a_record_has_stays_and_is_not_found_again(folders):
    first = Boxes(model=folders["owlv2"], things=("dog",), least_score=0.0, most_boxes=1)
    (found,) = (own.labels["objects"] for own in first(samples()[:1]))
    person = {"names": {"en": "dog"}, "box": found[0]["box"]}
    (verdict,) = first(samples(objects=[person])[:1])
    assert verdict.labels["objects"][0] == person
    assert all(item["box"] != person["box"] for item in verdict.labels["objects"][1:])
    # objects of a model that only the record names keep its name beside those of another
    cup = {"names": {"en": "cup"}, "box": found[0]["box"]}
    (verdict,) = first(samples(objects=[cup], label_models={"objects": "other"})[:1])
    assert [item["model"] for item in verdict.labels["objects"]] == ["other", found[0]["model"]]
    assert verdict.models == {"objects": f"other, {found[0]['model']}"}


def test_overlapping_boxes_of_a_name_go_and_those_of_another_stay():
    near, far = [0.01, 0.0, 0.5, 0.5], [0.6, 0.6, 0.9, 0.9]
    found = [Found("dog", near, 0.6), Found("dog", [0.0, 0.0, 0.5, 0.5], 0.7), Found("cat", near, 0.5)]
    found.append(Found("dog", far, 0.4))
    assert [(one.name, one.score) for one in best_boxes(found, [], 0.5, 9)] == [
        ("dog", 0.7),
        ("cat", 0.5),
        ("dog", 0.4),
    ]
    assert len(best_boxes(found, [], 1.0, 9)) == 4
    assert best_boxes(found, [], 0.5, 1)[0].score == 0.7
    given = [Found("dog", near, 1.0)]
    assert [(one.name, one.score) for one in best_boxes(found, given, 0.5, 9)] == [("cat", 0.5), ("dog", 0.4)]
    assert best_boxes([], given, 0.5, 9) == []


def test_many_names_are_asked_in_several_calls(folders):
    for kind, model in folders.items():
        step = Boxes(model=model, things=THINGS, least_score=0.0, things_at_once=1, images_at_once=2)
        (verdict,) = step(samples()[:1])
        assert {item["names"]["en"] for item in verdict.labels["objects"]} == set(THINGS), kind


def test_a_list_of_things_in_a_file(tmp_path, folders):
    (tmp_path / "things.txt").write_text("dog\n\nred cat\ndog\n")
    step = Boxes(model=folders["owlv2"], things=(str(tmp_path / "things.txt"),))
    assert step.things == ("dog", "red cat")
    assert pickle.loads(pickle.dumps(step)) == step
    (tmp_path / "empty.txt").write_text("\n")
    for name, message in (("empty.txt", "has no names"), ("none.txt", "cannot be read")):
        with pytest.raises(ValueError, match=f"things: .*{name} {message}"):
            Boxes(model=folders["owlv2"], things=(str(tmp_path / name),))


def test_mistakes_are_told_before_a_shard_is_read(tmp_path, folders):
    with pytest.raises(ValueError, match="model: give the folder or Hub name of one of the types owlv2"):
        Boxes()
    with pytest.raises(CheckpointError, match=f"there is no folder {tmp_path}/none"):
        Boxes(model=str(tmp_path / "none"))
    sam = tiny_sam(tmp_path / "sam")
    with pytest.raises(
        CheckpointError, match="is a model of the type sam, and boxes are made by owlv2, owlvit, ground"
    ):
        Boxes(model=str(sam))
    for options in ({"least_score": 2}, {"most_boxes": 0}, {"dtype": "int8"}, {"most_overlap": 0.0}):
        with pytest.raises(ValueError, match="at least 1|at most 1"):
            Boxes(model=folders["owlv2"], **options)


def test_names_that_are_too_long_for_the_model_are_told(folders):
    step = Boxes(model=folders["dino"], things=tuple(f"{letter} thing" for letter in "abcdefghij"))
    with pytest.raises(UserError, match=r"reads 40 tokens, and the names have \d+: lower things_at_once"):
        step(samples())


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 2), (16, 320)])
@pytest.mark.parametrize("kind", ["owlv2", "dino"])
def test_images_of_any_size(kind, size, folders):
    sample = replace(samples()[0], image=image(*size))
    (verdict,) = Boxes(model=folders[kind], things=THINGS, least_score=0.0)([sample])
    assert len(verdict.labels["objects"]) == verdict.values["objects"]
