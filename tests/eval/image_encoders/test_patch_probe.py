"""The linear probe of patch tokens, on arrays and by the command."""

import json

import numpy as np
import pytest
from PIL import Image
from tiny_siglip import save_square_and_naflex

from openpali.data.example import Box
from openpali.data.masks.rle import encode_rle
from openpali.eval import encoders
from openpali.eval.image_encoders.models import load_encoder
from openpali.eval.image_encoders.patch_probe import (
    AN_IMAGE,
    BACKGROUND,
    Patches,
    drawn,
    patch_classes,
    probe_patches,
    read_patches,
    token_grids,
)


def left_half(name, width=0.5):
    mask = np.zeros((6, 12), bool)
    mask[:, : int(12 * width)] = True
    return {"concept": name, "mask": mask}


def test_a_patch_is_of_the_object_that_covers_most_of_it():
    assert patch_classes([left_half("cat")], 2, 2) == ["cat", BACKGROUND] * 2
    assert patch_classes([{"concept": "cat", "mask": encode_rle(left_half("cat")["mask"])}], 1, 4) == [
        *["cat"] * 2,
        *[BACKGROUND] * 2,
    ]
    # half of the second patch is enough; of two objects the one that covers more counts
    assert patch_classes([left_half("cat", 0.75)], 1, 2) == ["cat", "cat"]
    assert patch_classes([left_half("cat", 0.6), left_half("dog", 1)], 1, 2) == ["dog", "dog"]
    assert patch_classes([left_half("dog", 1), left_half("cat", 0.25)], 1, 2) == ["dog", "dog"]


def test_boxes_count_where_there_is_no_mask():
    box = {"names": {"de": "Hund", "en": ["dog", "hound"]}, "box": Box(0.5, 0.0, 1.0, 0.5)}
    assert patch_classes([box], 2, 2) == [BACKGROUND, "dog", BACKGROUND, BACKGROUND]
    assert patch_classes([{"concept": "cat"}, {"box": Box(0, 0, 1, 1)}], 1, 1) == [BACKGROUND]


def some_patches(images=40, noise=0.0, shuffled=False):
    generator = np.random.default_rng(0)
    names = generator.choice(["cat", "dog", BACKGROUND], 8 * images, p=[0.2, 0.3, 0.5])
    tokens = np.stack([names == name for name in ("cat", "dog", BACKGROUND)], axis=1).astype(np.float32)
    tokens += noise * generator.standard_normal(tokens.shape).astype(np.float32)
    names = generator.permutation(names) if shuffled else names
    return Patches(tokens, names, np.repeat(np.arange(images), 8))


def test_scores_of_separable_and_of_unrelated_tokens():
    found = probe_patches(some_patches())
    assert (found.iou, found.accuracy, found.classes) == (1.0, 1.0, 3)
    assert (found.patches, found.images) == ((160, 160), (20, 20))
    assert found.chance == pytest.approx(0.5, abs=0.1)
    assert found.chance_iou == pytest.approx(found.chance / 3)
    # the most frequent class is the best guess; a few patches differ by chance
    found = probe_patches(some_patches(shuffled=True))
    assert found.iou == pytest.approx(found.chance_iou, abs=0.1)


def test_iou_is_the_mean_of_the_classes():
    patches = some_patches(noise=0.5)
    found = probe_patches(patches)
    assert 0.5 < found.iou < found.accuracy < 1


@pytest.mark.parametrize(
    ("patches", "said"),
    [
        (some_patches(images=9), "9 images are too few"),
        (Patches(np.zeros((20, 3)), np.array(["cat"] * 20), np.arange(20)), "all patches to train on are cat"),
    ],
)
def test_what_cannot_be_probed_is_said(patches, said):
    with pytest.raises(ValueError, match=said):
        probe_patches(patches)


def test_the_same_patches_are_drawn_for_every_encoder():
    assert drawn(3, 100) == drawn(3, 100) != drawn(4, 100)
    assert len(set(drawn(3, 100))) == AN_IMAGE
    assert drawn(3, 5) == [0, 1, 2, 3, 4]


class Halves:
    """Wide images, left red or blue, right white."""

    name, credits = "halves", ""

    def __len__(self):
        return 24

    def __getitem__(self, index):
        colour = ("red", "blue")[index // 2 % 2]
        image = Image.new("RGB", (60, 20), "white")
        image.paste(colour, (0, 0, 30, 20))
        return {"id": str(index), "image": image, "objects": [left_half(colour)]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders")
    save_square_and_naflex(folder)
    return folder


def test_tokens_keep_the_order_of_the_patches(folder):
    encoder = load_encoder(str(folder / "naflex"), "cpu")
    (wide, *shape), (tall, *other) = token_grids(encoder, [Image.new("RGB", size) for size in ((60, 20), (20, 60))])
    assert (shape, other) == ([2, 6], [6, 2])
    assert wide.shape == tall.shape == (12, encoder.model.config.vision_config.hidden_size)

    patches = read_patches(Halves(), encoder, None, 5)
    red = patches.tokens[patches.classes == "red"]
    assert len(red) == 6 * 12
    assert set(patches.classes.tolist()) == {"red", "blue", BACKGROUND}


def test_the_command_probes_all_encoders(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(encoders, "load_source", lambda spec: Halves())
    argv = ["--model", folder / "square", "--compare", folder / "naflex", "--source", "halves", "--device", "cpu"]
    argv += ["--output", tmp_path, "--tasks", "patches"]
    encoders.main([str(word) for word in argv])
    found = json.loads((tmp_path / "metrics.json").read_text())["patches"]
    assert set(found) == {"square", "naflex"}
    # the tokens of red, blue and white patches differ, also in a random encoder
    assert all(one["iou"] > 0.9 and one["classes"] == 3 for one in found.values())
    assert "patches of square: IoU " in capsys.readouterr().out
    assert "Linear probe of patches" in (tmp_path / "report.html").read_text()


def test_records_without_regions_are_said(folder, tmp_path, monkeypatch):
    class Plain(Halves):
        def __getitem__(self, index):
            return super().__getitem__(index) | {"objects": [{"concept": "red"}]}

    monkeypatch.setattr(encoders, "load_source", lambda spec: Plain())
    argv = ["--model", folder / "square", "--source", "x", "--output", tmp_path, "--tasks", "patches"]
    with pytest.raises(SystemExit, match="patches: not measured, no object of the records has a class"):
        encoders.main([str(word) for word in argv])
