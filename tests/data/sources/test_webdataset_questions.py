"""Questions with answers that shards hold, as `openpali web` writes them."""

import json
import random
from pathlib import Path

import pytest
from image_bytes import encoded
from PIL import Image

from openpali.data.records import BadRecord
from openpali.data.sources.webdataset import WebDataset
from openpali.data.tasks import load_task
from openpali.scripts.web.running.files import write_shard

PAIR = {"question": "who?", "answer": "a man", "language": "en"}


def source_of(folder: Path, questions) -> WebDataset:
    members = {"png": encoded(Image.new("RGB", (8, 6))), "json": json.dumps({"questions": questions}).encode()}
    write_shard(folder / "a.tar", [("1", members)])
    return WebDataset(str(folder / "a.tar"))


def test_questions_alone_serve_vq2a(tmp_path):
    (record,) = source_of(tmp_path, [PAIR]).records()
    for name, prefix, suffix in (("vq2a", "answer en who?", "a man"), ("question", "question en a man", "who?")):
        example = load_task({"name": name}).example(record, random.Random(0))
        assert example is not None
        assert (example.prefix, example.suffix) == (prefix, suffix)


@pytest.mark.parametrize("questions", [PAIR, ["who?"], [{"question": "who?"}], [PAIR | {"answer": 3}]])
def test_questions_in_another_form_are_named(tmp_path, questions):
    source = source_of(tmp_path, questions)
    (sample,) = source.samples(0)
    with pytest.raises(BadRecord, match='a.tar.*its "questions" are not questions with answers'):
        source.record(sample)
