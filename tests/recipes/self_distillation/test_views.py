"""Views of self-distillation, the late phase, and the texts of the decoder."""

import random

import pytest
import torch
from PIL import Image
from transformers import SiglipImageProcessorPil

from openpali.data.example import Box, Example
from openpali.data.files.config import ConfigError
from openpali.recipes.captioning.batches import DRAW
from openpali.recipes.captioning.tasks import location_task
from openpali.recipes.self_distillation.batches import LatePhase, WrittenPairs, decoder_example
from openpali.recipes.self_distillation.between_steps import TeacherUpdates
from openpali.recipes.self_distillation.views import MIRRORED, ViewOptions, Views, may_be_mirrored, view, window
from openpali.recipes.stages.image_text_pairs import Pairs

BOX = Box(0.1, 0.2, 0.5, 0.6, "dog")
RECORD = {"id": "a", "image": Image.new("RGB", (20, 10)), "captions": {"en": ["a dog"]}}
LOCATED = RECORD | {"objects": [{"box": BOX, "names": {"en": "dog"}}]}


def example(draw: int) -> Example:
    pixels = torch.randint(0, 256, (40, 60, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(draw))
    return Example(str(draw), "pairs", (Image.fromarray(pixels.numpy()),), "", "", meta={DRAW: draw, MIRRORED: True})


def views(**options) -> Views:
    processor = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    return Views(processor, 8, ViewOptions(3, 16, **options))


def test_views_follow_from_the_number_of_the_example_alone():
    make = views()
    batch = make([example(1), example(2)])
    assert batch["global_views"].shape == (2, 3, 32, 32)
    assert batch["local_views"].shape == (2, 3, 3, 16, 16)
    assert batch["masked"].shape == (2, 8)
    assert batch["masked"].max() < 16
    assert all(len(set(row)) == 8 for row in batch["masked"].tolist())
    alone = make([example(2)])
    for name, value in alone.items():
        assert torch.equal(value[0], batch[name][1]), name
    assert not torch.equal(batch["masked"][0], batch["masked"][1])


def test_windows_are_of_the_wanted_size_and_inside():
    rng = random.Random(0)
    areas, lefts = [], set()
    for _ in range(300):
        left, top, width, height = window((100, 80), (0.1, 0.4), rng)
        assert 0 <= left <= 100 - width
        assert 0 <= top <= 80 - height
        assert 0.7 < width / height < 1.4
        areas.append(width * height / 8000)
        lefts.add(left)
    assert 0.09 < min(areas) < 0.12
    assert 0.38 < max(areas) < 0.41
    assert len(lefts) > 40
    # nothing of such an area and ratio fits
    assert window((100, 10), (0.9, 1.0), rng) == (43, 0, 13, 10)
    assert window((10, 100), (0.9, 1.0), rng) == (0, 43, 10, 13)


def test_mirrored_views_only_where_the_record_allows_it():
    image = Image.new("RGB", (8, 8))
    image.putpixel((0, 0), (255, 0, 0))
    assert view(image, (1.0, 1.0), 1.0, random.Random(0)).getpixel((7, 0)) == (255, 0, 0)
    assert view(image, (1.0, 1.0), 0.0, random.Random(0)).getpixel((0, 0)) == (255, 0, 0)
    plain, flipped = views(), views(flip=1.0)
    one = example(3)
    assert torch.equal(flipped([one])["global_views"], plain([one])["global_views"].flip(-1))
    one.meta[MIRRORED] = False
    assert torch.equal(flipped([one])["global_views"], plain([one])["global_views"])


@pytest.mark.parametrize(
    ("change", "allowed"),
    [
        ({}, True),
        ({"captions": {"en": "a dog on the left"}}, False),
        ({"captions": {"en": ["a dog", "a clock"]}}, False),
        ({"captions": {"xx": "unknown"}}, False),
        ({"words": [{"text": "STOP"}]}, False),
        ({"captions": {}}, False),
        ({"captions": {}, "suffix": "a dog"}, True),
    ],
)
def test_what_may_be_mirrored(change, allowed):
    assert may_be_mirrored(RECORD | change, ["en"]) is allowed


def test_late_phase():
    phase = LatePhase.of(0.2, 10)
    assert [step for step in range(12) if step in phase] == [8, 9]
    assert None not in phase
    assert 9 not in LatePhase.of(0.0, 10)
    assert 0 in LatePhase.of(1.0, 10)
    fixed = TeacherUpdates(phase, None, 0.9, None, 0.9)  # pyright: ignore
    assert fixed.decay_at(8) == fixed.decay_at(9) == pytest.approx(0.9)
    rising = TeacherUpdates(phase, None, 0.9, 1.0, 0.9)  # pyright: ignore
    assert [rising.decay_at(step) for step in (7, 8, 9)] == pytest.approx([0.9, 0.95, 1.0])


def test_texts_of_the_decoder():
    located = {name: location_task(name, ["en"]) for name in ("refer", "grounded_caption")}

    def written(record, **shares):
        found = WrittenPairs(Pairs(texts=("captions",)), located, shares).example(record, random.Random(0))
        assert found is not None
        assert found.suffix == "a dog"
        text = decoder_example(found)
        assert text.meta[DRAW] == found.meta[DRAW]
        return text.task, text.prefix, text.suffix

    place = "<loc0205><loc0102><loc0614><loc0512>"
    assert written(LOCATED, caption=1) == ("caption", "", "a dog")
    assert written(LOCATED, refer=1) == ("refer", "refer the dog on the left", place)
    assert written(LOCATED, grounded_caption=1) == ("grounded_caption", f"caption {place}", "dog")
    # without boxes, and with objects without names: captions
    assert written(RECORD, refer=1) == ("caption", "", "a dog")
    assert written(RECORD | {"objects": [{"box": BOX}]}, refer=1) == ("caption", "", "a dog")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"number": 0}, "local_views=0"),
        ({"flip": 2.0}, "view_flip=2.0"),
        ({"local_area": (0.5, 0.1)}, "local_area"),
        ({"masked_share": 1.0}, "masked_share=1.0"),
    ],
)
def test_mistakes_in_options_of_views(options, message):
    with pytest.raises(ConfigError, match=message):
        ViewOptions(**{"number": 1, "local_size": 16} | options)
