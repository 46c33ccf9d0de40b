"""Raw shards through the steps ocr, boxes and masks, and what stage 1 makes of the shards that come out."""

import io
import itertools
import json
from pathlib import Path

import pytest
from PIL import Image, ImageDraw, ImageFont
from tiny_label_models import tiny_grounding_dino, tiny_owlv2, tiny_sam
from tiny_mask_vqvae import save_codec

from openpali.data.tasks import load_task
from openpali.modeling.location_tokens import parse_detections
from openpali.modeling.segmentation_tokens import parse_segmentations
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.run.command_line import parse
from openpali.recipes.run.datasets import load_splits, make_dataset
from openpali.scripts.web.passes import steps_on_shard
from openpali.scripts.web.running.files import write_shard
from openpali.scripts.web.running.plan import WebArguments, plan_run
from openpali.scripts.web.write import write_kept

pytest.importorskip("rapidocr")
WORDS = ("north", "south", "open", "shop", "green", "water")


def raw_shard(path: Path) -> None:
    """Six images with a word; every third has no caption."""
    samples = []
    for number, word in enumerate(WORDS):
        image, file = Image.new("RGB", (96, 64), (40 * number, 90, 120)), io.BytesIO()
        ImageDraw.Draw(image).text((20, 20), word, fill="white", font=ImageFont.load_default(18))
        image.save(file, "PNG")
        caption = {"txt": b"a red dog and two cups"} if number % 3 else {}
        samples.append((f"{number:04}", {"png": file.getvalue()} | caption))
    write_shard(path, samples)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> Path:
    """The folder of a run of all three steps, two of them detectors."""
    folder = tmp_path_factory.mktemp("labels")
    raw_shard(folder / "raw" / "a.tar")
    owl, dino, sam = (str(make(folder / name)) for name, make in MODELS.items())
    steps = [
        "ocr",
        {"name": "boxes", "model": owl, "least_score": 0.0, "most_boxes": 3},
        {"name": "boxes", "model": dino, "things": ["dog", "cat"], "least_score": 0.0, "most_boxes": 2},
        {"name": "masks", "model": sam, "codec": str(save_codec(folder / "codec")), "least_iou": 0.1, "batch_size": 2},
    ]
    run = plan_run(WebArguments([str(folder / "raw")], str(folder / "out"), "en", steps))
    for plans in run.passes():
        steps_on_shard({"shard": 0}, run, plans)
    write_kept({"shard": 0}, run)
    return folder


MODELS = {"owl": tiny_owlv2, "dino": tiny_grounding_dino, "sam": tiny_sam}


def stream(folder: Path, task: dict, tmp_path: Path, count: int, **options) -> list:
    """The first examples of the stream that `openpali pretrain` reads; no record is bad."""
    (args,) = parse([RunArguments], ["--output_dir", str(tmp_path / "run"), "--use_cpu", "true"])
    source = {"name": "webdataset", "path": str(folder / "out" / "shards"), "validation_size": 1, "shuffle": 4}
    data = make_dataset(load_splits(source | options, args)["train"], load_task(task), args)
    examples = list(itertools.islice(iter(data), count))
    assert not (tmp_path / "run" / "skipped_records.jsonl").exists()
    return examples


def test_words_train_ocr(labelled, tmp_path):
    examples = stream(labelled, {"name": "ocr", "order": "raster"}, tmp_path, 10)
    assert {example.suffix for example in examples} == set(WORDS[1:])
    assert all(0 < example.boxes[0].x0 < example.boxes[0].x1 <= 1 for example in examples)


def test_objects_of_each_detector_train_detect(labelled, tmp_path):
    """In two entries of a mixture, which choose the labels by their models."""
    names = {}
    for model in ("owl", "dino"):
        examples = stream(labelled, {"name": "detect"}, tmp_path, 40, label_models=[f"*/{model} *"])
        assert all(parse_detections(example.suffix).boxes for example in examples)
        names[model] = {example.prefix.removeprefix("detect ") for example in examples}
    assert names["owl"] <= {"dog", "cup"}
    assert names["dino"] == {"dog", "cat"}
    assert "cat" not in names["owl"]


def test_masks_train_segment_by_their_stored_tokens(labelled, tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("a mask is encoded")

    monkeypatch.setattr("openpali.modeling.modeling_mask_vqvae.MaskVQVAE.encode", refuse)
    for example in stream(labelled, {"name": "segment", "codec": str(labelled / "codec")}, tmp_path, 5):
        assert len(parse_segmentations(example.suffix).masks) == len(example.masks) > 0


def test_the_index_names_every_model(labelled):
    from pyarrow import parquet

    rows = parquet.read_table(labelled / "out" / "index" / "a.parquet").to_pylist()
    assert len(rows) == len(WORDS)
    assert all("words" in row["labels"] and "objects" in row["labels"] for row in rows)
    assert all(any(str(labelled / "sam") in model for model in row["models"]) for row in rows)
    text = json.dumps(rows[1])
    assert str(labelled / "owl") in text
    assert str(labelled / "dino") in text
