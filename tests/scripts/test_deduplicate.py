import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from openpali.data.sources.webdataset import WebDataset
from openpali.scripts.deduplicate import main
from openpali.scripts.shards.image_hashes import ImageHashes, folder_images, hash_image
from openpali.scripts.shards.near_duplicates import duplicates_of, duplicates_within, hash_pieces
from openpali.scripts.shards.parallel import write_shard


def scene(seed: int, side: int = 96) -> Image.Image:
    """A smooth random image, as photographs are."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def hashes(images: list[Image.Image]) -> ImageHashes:
    rows = [hash_image(image) for image in images]
    bits = b"".join(bytes.fromhex(row["perceptual"]) for row in rows)
    small = b"".join(bytes.fromhex(row["thumbnail"]) for row in rows)
    names = [str(index) for index in range(len(images))]
    perceptual = np.frombuffer(bits, ">u8").astype(np.uint64)
    thumbnails = np.frombuffer(small, np.uint8).reshape(len(images), -1)
    return ImageHashes(names, [row["digest"] for row in rows], perceptual, thumbnails, np.arange(len(images)))


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


def test_equal_pixels_need_no_equal_files():
    found = duplicates_of(hashes([scene(3), scene(500)]), hashes([scene(1), scene(3), scene(3)]), 0)
    assert [(duplicate.index, duplicate.of, duplicate.distance, duplicate.kind) for duplicate in found] == [
        (0, 1, 0, "same pixels")
    ]


def test_flat_images_of_other_colours_are_no_duplicates():
    flat = [Image.new("RGB", (32, 32), colour) for colour in ("red", "green", "white", "black")]
    assert len(set(hashes(flat).perceptual.tolist())) < 4
    assert duplicates_within(hashes(flat), 6) == []
    assert duplicates_of(hashes(flat[:2]), hashes(flat[2:]), 6) == []


def test_duplicates_within_are_those_of_comparing_all_with_all():
    images = [scene(seed) for seed in range(30)]
    images += [change(images[index]) for index, change in enumerate(CHANGES.values())] + [images[0], images[7]]
    own = hashes(images)
    found = {duplicate.index: duplicate.of for duplicate in duplicates_within(own, 6)}
    assert found == {30: 0, 31: 1, 32: 2, 33: 3, 34: 4, 35: 0, 36: 7}
    for most in (0, 1, 6, 10, 31):
        masks = hash_pieces(most)
        assert len(masks) == most + 1
        assert sum(int(mask) for mask in masks) == 2**64 - 1
        slow = {
            j
            for j in range(len(images))
            for i in range(j)
            if int(np.bitwise_count(own.perceptual[i] ^ own.perceptual[j])) <= most
            and np.abs(own.thumbnails[i].astype(int) - own.thumbnails[j]).mean() <= 16
        }
        assert {duplicate.index for duplicate in duplicates_within(own, most)} == slow


@pytest.fixture
def shards(tmp_path) -> Path:
    """Two shards of ten: 2 and 13 are in the evaluation set, 14 repeats 3, and 6 is broken."""
    images = {number: scene(number) for number in range(20)} | {14: CHANGES["smaller"](scene(3))}
    for shard in range(2):
        samples = []
        for number in range(shard * 10, shard * 10 + 10):
            image = b"nothing" if number == 6 else encoded(images[number])
            samples.append((f"{number:04}", {"png": image, "txt": f"text {number}".encode()}))
        write_shard(tmp_path / "in" / f"s-{shard}.tar", samples)
    (tmp_path / "test" / "deep").mkdir(parents=True)
    (tmp_path / "test" / "a.jpg").write_bytes(encoded(scene(2), "JPEG", quality=70))
    (tmp_path / "test" / "deep" / "b.PNG").write_bytes(encoded(scene(13)))
    (tmp_path / "test" / "other.png").write_bytes(encoded(scene(99)))
    (tmp_path / "test" / "broken.png").write_bytes(b"nothing")
    (tmp_path / "test" / "notes.txt").write_text("none")
    return tmp_path / "in"


def kept(output: Path) -> set[int]:
    return {int(record["id"][-4:]) for record in WebDataset(str(output / "shards")).records()}


def run(shards: Path, output: Path, *more: str) -> dict[str, str]:
    main(["--shards", str(shards), "--output", str(output), *more])
    lines = [json.loads(line) for line in (output / "removed.jsonl").read_text().splitlines()]
    return {line["sample"]: Path(line["of"]).name + ", " + line["kind"] for line in lines}


def test_evaluation_images_and_repeats_are_removed_and_reported(shards, tmp_path, capsys):
    output = tmp_path / "out"
    removed = run(shards, output, "--against", str(tmp_path / "test"), "--within", "--processes", "2")
    assert removed == {
        "s-0:0002": "a.jpg, alike",
        "s-1:0013": "b.PNG, same pixels",
        "s-1:0014": "s-0:0003, alike, within",
    }
    assert kept(output) == set(range(20)) - {2, 6, 13, 14}
    assert "16 of 19 samples kept" in capsys.readouterr().out
    report = json.loads((output / "report.json").read_text())
    assert report["found"] == {"alike": 1, "same pixels": 1, "alike, within": 1}
    # the broken ones of the shards and of the folder
    assert report["unusable"] == 2


def test_any_source_and_other_shards_are_evaluation_sets(shards, tmp_path):
    lines = [{"image": "test/a.jpg", "prefix": "p", "suffix": "s"}]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_shard(tmp_path / "held-out.tar", [("x", {"png": encoded(scene(13))})])
    source = json.dumps({"name": "jsonl", "path": str(tmp_path / "test.jsonl")})
    against = ["--against", source, str(tmp_path / "held-out.tar"), "--processes", "1"]
    removed = run(shards, tmp_path / "out", *against)
    assert removed == {"s-0:0002": "test.jsonl:1, alike", "s-1:0013": "held-out:x, same pixels"}
    # resumes with the same result
    (tmp_path / "out" / "shards" / "s-1.tar").unlink()
    (tmp_path / "out" / "hashes" / "train" / "s-0.parquet").unlink()
    assert run(shards, tmp_path / "out", *against) == removed
    assert kept(tmp_path / "out") == set(range(20)) - {2, 6, 13}
    with pytest.raises(SystemExit, match="distance: 6 before, 5 now"):
        run(shards, tmp_path / "out", *against, "--distance", "5")


def test_mistakes_are_reported(shards, tmp_path, capsys):
    for more, message in [([], "nothing to compare with"), (["--within", "--distance", "40"], "is not from 0 to 31")]:
        with pytest.raises(SystemExit):
            run(shards, tmp_path / "out", *more)
        assert message in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="there are no images under"):
        folder_images(str(tmp_path / "empty"))
    with pytest.raises(SystemExit, match="error: there are no images under"):
        run(shards, tmp_path / "out", "--against", str(tmp_path / "empty"))
