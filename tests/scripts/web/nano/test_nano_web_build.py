"""The nano web: every sample lies where the truth says, and is what it says."""

import json
import tarfile
from collections import Counter

import numpy as np
import pytest
from made_web import TINY

from openpali.data.files.tar_shards import read_samples
from openpali.data.images.open_image import load_image
from openpali.data.records import BadRecord
from openpali.data.sources.webdataset import WebDataset, record_of
from openpali.scripts.web.copies.image_hashes import hash_image
from openpali.scripts.web.nano.build import build, main
from openpali.scripts.web.nano.captions import SENTENCES, WANTED
from openpali.scripts.web.nano.samples import SHARES
from openpali.scripts.web.nano.scores import read_truth


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nano") / "raw"
    build(folder, TINY)
    return folder


@pytest.fixture(scope="module")
def truth(raw):
    return read_truth(raw / "truth.jsonl")


@pytest.fixture(scope="module")
def samples(raw):
    """All samples that can be found, by shard and number."""
    paths = sorted((raw / "shards").glob("*.tar"))
    return {(path.stem, one.place.number): one for path in paths for one in read_samples(str(path), path.stem)}


def test_every_kind_of_noise_is_there(truth):
    kinds = Counter(row["kind"] for row in truth.values())
    assert set(kinds) == {*SHARES, "right"}
    assert sum(kinds.values()) == TINY.samples
    assert {"truncated shard", "empty image", "broken json", "hostile name"} <= {
        row["damage"] for row in truth.values()
    }


def test_samples_lie_where_the_truth_says(samples, truth):
    assert set(samples) <= set(truth)
    for place, sample in samples.items():
        row = truth[place]
        assert sample.key == row["key"]
        if sample.problem is None and not row["damage"]:
            assert sample.members["txt"].decode() == row["caption"]
    lost = set(truth) - set(samples)
    assert lost
    assert {truth[place]["damage"] for place in lost} == {"truncated shard"}


def test_what_is_damaged_cannot_be_used_and_the_rest_can(samples, truth):
    for place, sample in samples.items():
        try:
            record_of(sample)
            usable = True
        except BadRecord:
            usable = False
        assert usable == (not truth[place]["damage"]), truth[place]


def test_hostile_names_lead_out_of_the_folder(tmp_path):
    build(tmp_path / "raw", TINY)
    rows = [row for row in read_truth(tmp_path / "raw" / "truth.jsonl").values() if row["damage"] == "hostile name"]
    with tarfile.open(tmp_path / "raw" / "shards" / f"{rows[0]['shard']}.tar") as archive:
        members = [one for one in archive.getmembers() if rows[0]["key"].split("/")[-1] in one.name]
    assert any(one.issym() or one.name.startswith(("../", "/")) for one in members)


def test_copies_and_evaluation_images_are_near_what_they_repeat(raw, samples, truth):
    repeated = [
        (place, row) for place, row in truth.items() if row["of"] and place in samples and not samples[place].problem
    ]
    assert {row["kind"] for _, row in repeated} == {"copy", "evaluation image"}
    compared = 0
    for place, row in repeated:
        shard, _, number = row["of"].partition(":")
        if row["kind"] == "evaluation image":
            original = load_image(raw / "evaluation" / row["of"])
        elif (shard, int(number)) in samples and not samples[shard, int(number)].problem:
            assert shard != place[0]
            original = record_of(samples[shard, int(number)])["image"]
        else:
            continue
        one, other = (hash_image(image) for image in (record_of(samples[place])["image"], original))
        bits = [np.frombuffer(bytes.fromhex(own["perceptual"]), ">u8") for own in (one, other)]
        assert np.bitwise_count(bits[0] ^ bits[1]).item() <= 8
        assert one["digest"] != other["digest"]
        compared += 1
    assert compared >= 3


def test_wrong_captions_and_unwanted_languages_are_sentences(truth):
    for row in truth.values():
        if row["kind"] == "unwanted language":
            assert row["language"] in set(SENTENCES) - set(WANTED)
        elif row["kind"] != "boilerplate":
            assert row["language"] in WANTED


def test_words_lie_within_their_image(samples, truth):
    for place, row in truth.items():
        if row["words"] and place in samples and samples[place].problem is None:
            width, height = record_of(samples[place])["image"].size
            for word in row["words"]:
                x0, y0, x1, y1 = word["box"]
                assert -2 <= x0 < x1 <= width + 2
                assert -2 <= y0 < y1 <= height + 2


def test_the_same_seed_gives_the_same_files_and_another_one_others(raw, tmp_path, capsys):
    options = ["--samples", str(TINY.samples), "--shards", "3", "--evaluation", "6", "--elsewhere", "3"]
    main(["--output", str(tmp_path / "same"), *options])
    assert f"{TINY.samples} samples" in capsys.readouterr().out
    main(["--output", str(tmp_path / "other"), *options, "--seed", "1"])
    files = sorted(path.relative_to(raw) for path in raw.rglob("*") if path.is_file())
    assert files == sorted(
        path.relative_to(tmp_path / "same") for path in (tmp_path / "same").rglob("*") if path.is_file()
    )
    for path in files:
        assert (raw / path).read_bytes() == (tmp_path / "same" / path).read_bytes()
    assert (raw / "truth.jsonl").read_text() != (tmp_path / "other" / "truth.jsonl").read_text()


def test_clean_pairs_have_all_captions_by_language(raw):
    (record, *_) = WebDataset(str(raw / "elsewhere")).records()
    assert list(record["captions"]) == list(WANTED)
    assert all(len(texts) == len(SENTENCES[language]) for language, texts in record["captions"].items())


def test_a_folder_with_something_in_it_is_refused_in_one_line(raw):
    with pytest.raises(SystemExit, match="is not empty: remove it, or give another --output"):
        main(["--output", str(raw)])


def test_the_truth_is_json_without_surprises(raw):
    rows = [json.loads(line) for line in (raw / "truth.jsonl").read_text("utf-8").splitlines()]
    keys = {"shard", "number", "key", "kind", "detail", "damage", "of", "words", "language", "caption"}
    assert all(keys <= set(row) for row in rows)
