"""Near-duplicates of evaluation images by hashes, and the step that drops them."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from image_bytes import encoded
from made_web import in_process
from PIL import Image, ImageFilter
from raw_web import scene

from openpali.modeling.user_errors import UserError
from openpali.scripts.web.copies.components import stars_within
from openpali.scripts.web.copies.image_hashes import ImageHashes, hash_image
from openpali.scripts.web.copies.near_duplicates import duplicates_of, hash_pieces
from openpali.scripts.web.copies.near_pairs import add_shard, add_thumbnails, band_rows, compared, near_pairs
from openpali.scripts.web.running.files import write_shard
from openpali.scripts.web.running.plan import WebRun
from openpali.scripts.web.running.samples import WebSample
from openpali.scripts.web.steps import evaluation_images
from openpali.scripts.web.steps.evaluation_images import EvaluationImages


def hashes(images: list[Image.Image]) -> ImageHashes:
    rows = [hash_image(image) for image in images]
    bits = b"".join(bytes.fromhex(row["perceptual"]) for row in rows)
    small = b"".join(bytes.fromhex(row["thumbnail"]) for row in rows)
    names = [str(index) for index in range(len(images))]
    perceptual = np.frombuffer(bits, ">u8").astype(np.uint64)
    thumbnails = np.frombuffer(small, np.uint8).reshape(len(images), -1)
    return ImageHashes(names, [row["digest"] for row in rows], perceptual, thumbnails, np.arange(len(images)))


def pairs(images: list[Image.Image], distance: int) -> dict[int, int]:
    """Copies among images, each with the first of its set."""
    own = hashes(images)
    near = near_pairs(band_rows(own.numbers, own.perceptual, own.thumbnails, distance, 1), distance)
    if not len(near["image"]):
        return {}

    def read(place, numbers):
        return own.thumbnails[numbers]

    alike = compared(add_shard(add_thumbnails(add_shard(near, "image"), read), "of"), read)
    return dict(stars_within(np.stack([alike["image"], alike["of"]], axis=1)).tolist())


CHANGES = {
    "re-encoded": lambda image: Image.open(io.BytesIO(encoded(image, "JPEG", quality=60))).convert("RGB"),
    "smaller": lambda image: image.resize((40, 40)),
    "wider": lambda image: image.resize((150, 100)),
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(1)),
    "brighter": lambda image: image.point(lambda value: min(255, value + 8)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_images_are_found_and_no_others(change):
    others = hashes([scene(seed) for seed in range(100)])
    found = duplicates_of(hashes([CHANGES[change](scene(seed)) for seed in range(100, 120)]), others, 6)
    assert found == []
    found = duplicates_of(hashes([CHANGES[change](scene(seed)) for seed in range(20)]), others, 6)
    assert [(duplicate.index, duplicate.of) for duplicate in found] == [(index, index) for index in range(20)]
    assert {duplicate.kind for duplicate in found} == {"alike"}
    assert all(duplicate.distance <= 6 for duplicate in found)


def test_copies_among_images_are_found():
    images = [scene(seed) for seed in range(30)]
    images += [change(images[index]) for index, change in enumerate(CHANGES.values())] + [images[0], images[7]]
    assert pairs(images, 6) == {30: 0, 31: 1, 32: 2, 33: 3, 34: 4, 35: 0, 36: 7}


@pytest.mark.parametrize("most", [0, 1, 6, 10, 31])
def test_bands_cover_all_bits_once(most):
    masks = hash_pieces(most)
    assert len(masks) == most + 1
    assert sum(int(mask) for mask in masks) == 2**64 - 1


def test_equal_pixels_need_no_equal_files():
    found = duplicates_of(hashes([scene(3), scene(500)]), hashes([scene(1), scene(3), scene(3)]), 0)
    assert [(duplicate.index, duplicate.of, duplicate.distance, duplicate.kind) for duplicate in found] == [
        (0, 1, 0, "same pixels")
    ]


def test_flat_images_of_other_colours_are_no_duplicates():
    flat = [Image.new("RGB", (32, 32), colour) for colour in ("red", "green", "white", "black")]
    assert len(set(hashes(flat).perceptual.tolist())) < 4
    assert pairs(flat, 6) == {}
    assert duplicates_of(hashes(flat[:2]), hashes(flat[2:]), 6) == []


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder of evaluation images with a broken one, a JSONL file, and a shard."""
    (tmp_path / "test" / "deep").mkdir(parents=True)
    (tmp_path / "test" / "a.jpg").write_bytes(encoded(scene(2), "JPEG", quality=70))
    (tmp_path / "test" / "deep" / "b.PNG").write_bytes(encoded(scene(13)))
    (tmp_path / "test" / "other.png").write_bytes(encoded(scene(99)))
    (tmp_path / "test" / "broken.png").write_bytes(b"nothing")
    (tmp_path / "test" / "notes.txt").write_text("none")
    lines = [{"image": "test/a.jpg", "prefix": "p", "suffix": "s"}]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_shard(tmp_path / "held-out.tar", [("x", {"png": encoded(scene(13))})])
    return tmp_path


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    monkeypatch.setattr(evaluation_images, "over_shards", in_process)


def dropped(folder: Path, *against: str) -> dict[int, str]:
    """Numbers of dropped images among twenty, with the image that they repeat and the reason."""
    run = WebRun(folder / "out", (), (), "en", ())
    step = EvaluationImages(against=against).prepare(run)
    batch = [WebSample("s", seed, str(seed), scene(seed), {}, hash_image(scene(seed))) for seed in range(20)]
    verdicts = enumerate(step(batch))
    return {at: f"{Path(str(own.values['of'])).name}, {own.drop}" for at, own in verdicts if own.drop}


def test_a_folder_a_source_and_shards_are_evaluation_sets(folder, capsys):
    expected = {2: "a.jpg, evaluation image, alike", 13: "b.PNG, evaluation image, same pixels"}
    assert dropped(folder, str(folder / "test")) == expected
    source = json.dumps({"name": "jsonl", "path": str(folder / "test.jsonl")})
    assert dropped(folder, source, str(folder / "held-out.tar")) == {
        2: "test.jsonl:1, evaluation image, alike",
        13: "held-out:x, evaluation image, same pixels",
    }
    skipped = (folder / "out" / "evaluation" / "skipped.jsonl").read_text().splitlines()
    assert ["broken.png" in line for line in skipped] == [True]
    assert "evaluation_images: images that cannot be used, whose copies are not found: 1 (" in capsys.readouterr().out


def test_a_folder_without_images_is_one_line(folder):
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match="^evaluation_images: against: there are no images under "):
        dropped(folder, str(folder / "empty"))
