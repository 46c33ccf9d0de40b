import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from clips import level, numbers, write_clip
from PIL import Image

from openpali.data.collator import Collator
from openpali.data.mixture import TaskDataset
from openpali.data.records import BadRecord
from openpali.data.sources import load_source
from openpali.data.sources.video import VideoSource
from openpali.data.tasks import load_task

GOOD = {"video": "clip.mp4", "prefix": "what is this", "suffix": "a red dog"}


@pytest.fixture
def write(tmp_path):
    """Write records beside a clip of 16 frames, two seconds, and the same as a folder of images."""
    write_clip(tmp_path / "clip.mp4", 16)
    (tmp_path / "frames").mkdir()
    for number in range(16):
        Image.new("RGB", (32, 16), (level(number),) * 3).save(tmp_path / "frames" / f"{number}.png")

    def write(records: list) -> Path:
        lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
        (tmp_path / "my.jsonl").write_text("\n".join(lines), "utf-8")
        return tmp_path / "my.jsonl"

    return write


def test_records_of_clips(write):
    records = [
        GOOD,
        GOOD | {"start": 1, "end": 2.0, "references": ["a red dog", "two green cats"]},
        {"video": "frames", "captions": {"en": ["a red dog", "two green cats"], "de": "ein Hund"}},
    ]
    source = load_source({"name": "video", "path": str(write(records)), "num_frames": 4, "frame_rate": 8})
    assert isinstance(source, VideoSource)
    assert source.bad == []
    first, part, folder = (source[index] for index in range(3))
    assert [record["id"] for record in (first, part, folder)] == ["my.jsonl:1", "my.jsonl:2", "my.jsonl:3"]
    assert [numbers(record["images"]) for record in (first, part, folder)] == [
        [2, 6, 10, 14],
        [9, 11, 13, 15],
        [2, 6, 10, 14],
    ]
    assert (first["prefix"], first["suffix"]) == ("what is this", "a red dog")
    assert part["references"] == ["a red dog", "two green cats"]
    assert folder["captions"] == records[2]["captions"]
    assert "prefix" not in folder
    assert numbers(pickle.loads(pickle.dumps(source))[0]["images"]) == [2, 6, 10, 14]
    strided = VideoSource(source.path, num_frames=3, stride=0.25)
    assert numbers(strided[1]["images"]) == [8, 10, 12]
    assert VideoSource(source.path, decode_size=2)[0]["images"][0].size == (8, 4)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("{nonsense", "it is not JSON"),
        ({**GOOD, "video": None}, '"video" is missing or not a path'),
        ({**GOOD, "video": "none.mp4"}, "does not exist"),
        ({**GOOD, "video": "../clip.mp4"}, "is outside .* Move the clip there"),
        ({**GOOD, "video": "https://example.org/a.mp4"}, "address on the web. Download the clip"),
        ({**GOOD, "video": "my.jsonl"}, "cannot be decoded"),
        ({**GOOD, "video": "half.mp4"}, "cannot be decoded"),
        ({**GOOD, "video": "empty"}, "holds no images"),
        ({**GOOD, "image": "a.png"}, r"unknown keys \['image'\]"),
        ({**GOOD, "start": -1}, '"start" is -1. Give "start" in seconds'),
        ({**GOOD, "end": "3"}, "\"end\" is '3'"),
        ({**GOOD, "end": True}, '"end" is True'),
        ({**GOOD, "start": 2, "end": 1}, '"end" is not after "start"'),
        ({**GOOD, "start": 2.5}, "is 2 long, which leaves nothing of 2.5"),
        ({"video": "clip.mp4"}, '"prefix" is missing'),
        ({"video": "clip.mp4", "captions": "a dog"}, '"captions" are not texts by language'),
        ({"video": "clip.mp4", "captions": {"en": []}}, '"captions" are not texts by language'),
    ],
)
def test_a_bad_record_is_left_out_and_named(record, message, write, tmp_path):
    (tmp_path / "half.mp4").write_bytes((tmp_path / "clip.mp4").read_bytes()[:600])
    (tmp_path / "empty").mkdir()
    source = VideoSource(write([GOOD, record, GOOD]))
    assert len(source) == 2
    assert str(source.bad[0]).startswith(f"{tmp_path / 'my.jsonl'}:2: ")
    with pytest.raises(BadRecord, match=message):
        raise source.bad[0]


def test_a_clip_that_breaks_later_is_a_bad_record(write, tmp_path):
    source = VideoSource(write([GOOD, {**GOOD, "video": "later.mp4"}][::-1]), check_decode=0)
    assert [bad.record for bad in source.bad] == ["1"]
    (tmp_path / "clip.mp4").write_bytes(b"gone")
    with pytest.raises(BadRecord, match=r"my\.jsonl:2: .*clip\.mp4 cannot be decoded"):
        source[0]


@pytest.mark.parametrize("options", [{"num_frames": 0}, {"stride": -1}, {"frame_rate": 0}])
def test_options_that_make_no_sense(options, write):
    with pytest.raises(ValueError, match=next(iter(options))):
        VideoSource(write([GOOD]), **options)


def test_both_families_read_every_frame_as_a_image(write, tiny_processor, tiny_model, tiny_paligemma):
    source = VideoSource(write([GOOD, GOOD | {"video": "frames", "suffix": "two green cats"}]), num_frames=3)
    data = TaskDataset(source, load_task({"name": "plain"}))
    examples = [data[0], data[1]]
    paligemma, paligemma_processor = tiny_paligemma
    for model, processor in ((tiny_model, tiny_processor), (paligemma, paligemma_processor)):
        batch = Collator(processor)(examples)
        assert batch["pixel_values"].shape[:2] == (6, 3)
        assert (batch["input_ids"] == processor.image_token_id).sum(dim=1).tolist() == [12, 12]
        turned = replace(examples[0], images=examples[0].images[::-1])
        with torch.no_grad():
            alone = [model(**Collator(processor)([example])).loss for example in (*examples, turned)]
            together = model(**batch).loss
            prompts = Collator(processor, generation=True)(examples)
            assert len(model.generate(**prompts, max_new_tokens=2)) == 2
        torch.testing.assert_close(together, (alone[0] + alone[1]) / 2, rtol=0, atol=1e-4)
        # frames in another order are another clip
        assert abs(alone[2] - alone[0]) > 1e-4


def test_captions_of_a_clip_are_a_task_over_all_of_its_frames(write):
    source = VideoSource(write([{"video": "clip.mp4", "captions": {"en": ["a red dog"]}}]), num_frames=5)
    example = TaskDataset(source, load_task({"name": "caption"}))[0]
    assert (example.prefix, example.suffix, len(example.images)) == ("caption en", "a red dog", 5)
