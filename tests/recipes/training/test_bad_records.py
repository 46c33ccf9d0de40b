"""Records that turn out bad while training: their share of all data decides, and the last line reports them."""

import json
import os
import re
import subprocess
import sys

import pytest
from custom_files import SIDE
from PIL import Image
from tiny_adapters import save_checkpoint
from tiny_stream_run import Numbered, make_shards
from torch.utils.data import DataLoader

from openpali.data.example import Example
from openpali.data.records import BadRecord
from openpali.data.sources.webdataset import WebDataset
from openpali.data.streaming.stream import TaskStream
from openpali.recipes.features.examples import loader_of
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.run.datasets import make_dataset
from openpali.recipes.training.bad_data import CAUGHT_ERROR, ErrorCatchingDataset, RecordNamingCollator, raise_caught
from openpali.recipes.training.stream_loader import StreamLoader


class Torn:
    """Examples of which some cannot be read."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        if index == 5:
            raise BadRecord("my.jsonl", index, "the image is torn", "Mend it.")
        return Example(str(index), "naming", (), "what", "dog")


def sizes(items):
    return {"labels": len(items)}


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_wrong_in_a_worker_arrives_as_it_is(workers, tmp_path):
    batches = list(
        DataLoader(ErrorCatchingDataset(Torn()), 2, collate_fn=RecordNamingCollator(sizes), num_workers=workers)
    )
    assert batches[1] == {"labels": 2, "record_names": ["2", "3"]}
    assert str(batches[2][CAUGHT_ERROR]) == "my.jsonl:5: the image is torn. Mend it."
    run = RunArguments(output_dir=str(tmp_path), dataloader_num_workers=workers, use_cpu=True)
    with pytest.raises(BadRecord, match="^my.jsonl:5: the image is torn. Mend it.$"):
        list(raise_caught(loader_of(Torn(), run, None)))


def test_mistakes_of_the_code_are_raised_where_they_are():
    with pytest.raises(ZeroDivisionError):
        RecordNamingCollator(lambda items: 1 // 0)([1])


@pytest.mark.parametrize(("length", "ended"), [(44, True), (1000, False)])
@pytest.mark.parametrize("workers", [0, 2])
def test_bad_records_of_a_stream_are_judged_by_its_length(length, ended, workers, tmp_path, monkeypatch):
    """A tenth of the length that the source states may be bad, on all workers together."""
    make_shards(tmp_path)
    monkeypatch.setattr(WebDataset, "record", torn_record(WebDataset.record))
    source = WebDataset(str(tmp_path / "*.tar"), shuffle=1, length=length)
    options = {"max_steps": 20, "per_device_train_batch_size": 2, "dataloader_num_workers": workers, "use_cpu": True}
    run = RunArguments(output_dir=str(tmp_path), **options)
    data = make_dataset(source, Numbered(), run)
    assert isinstance(data, TaskStream)
    loader = StreamLoader(data, run, RecordNamingCollator(sizes))
    found = [batch[CAUGHT_ERROR] for batch, _ in zip(loader, range(20)) if CAUGHT_ERROR in batch]
    assert bool(found) == ended
    if ended:
        # another worker may have met its next one before this one is told
        assert re.search(
            f"with it [5-9] of {length} records cannot be used, more than max_bad_share=0.1", str(found[0])
        )


def torn_record(read):
    """Every fourth record is bad."""

    def record(self, sample):
        if int(sample.key) % 4 == 0:
            raise BadRecord(sample.shard, sample.key, "it is torn")
        return read(self, sample)

    return record


def torn_images(folder, total):
    """A fifth ends too early; the check decodes the first hundred, which are blue, and no others."""
    for number in range(total):
        path = folder / ("red" if number % 2 else "blue") / f"{number:03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.effect_noise((SIDE, SIDE), 60).convert("RGB")
        image.putpixel((0, 0), (number, 0, 0))
        image.save(path)
        if number % 5 in (1, 3) and number % 2:
            path.write_bytes(path.read_bytes()[:-200])
    return folder


def test_the_reason_is_the_last_line(tiny_tokenizer, tmp_path):
    checkpoint = save_checkpoint("pali3", tiny_tokenizer, tmp_path / "checkpoint")
    data, run = torn_images(tmp_path / "data", 200), tmp_path / "run"
    line = [sys.executable, "-m", "openpali.recipes.transfer", "--model", checkpoint, "--data", data]
    line += ["--kind", "classify", "--output_dir", run, "--use_cpu", "true", "--tensorboard", "false"]
    line += ["--dataloader_num_workers", 2, "--max_steps", "200", "--feature_cache", "off"]
    line += ["--per_device_train_batch_size", "4", "--train_despite_errors", "true"]
    done = subprocess.run(list(map(str, line)), capture_output=True, text=True, env=os.environ, timeout=300)
    assert done.returncode == 1, done.stderr
    assert "steps of 4 examples" in done.stdout
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"error: {data}:")
    assert "cannot be used, more than max_bad_share=0.1. " in last
    assert "Traceback" not in done.stderr
    rows = map(json.loads, (run / "skipped_records.jsonl").read_text().splitlines())
    # how many the workers have read ahead by then depends on their speed
    assert sum("data" in row for row in rows) > 5
