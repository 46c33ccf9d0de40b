import json

import pytest
from PIL import Image
from tiny_stream_run import Numbered, make_shards

from openpali.data.files.config import ConfigError
from openpali.data.mixture import Mixture, TaskDataset
from openpali.data.sources import Augmented
from openpali.data.streaming.stream import StreamMixture, TaskStream
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.run.datasets import first_records, load_splits, make_dataset, mix_datasets


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run").mkdir()
    return RunArguments(output_dir=str(tmp_path / "run"), use_cpu=True, max_steps=10, seed=4)


@pytest.fixture
def spec(tmp_path):
    make_shards(tmp_path / "shards", shards=2, size=10)
    return {"name": "webdataset", "path": str(tmp_path / "shards")}


@pytest.fixture
def lines(tmp_path, spec):
    good = {"image": "shards/a.png", "prefix": "p", "suffix": "s"}
    Image.new("RGB", (8, 8)).save(tmp_path / "shards" / "a.png")
    (tmp_path / "my.jsonl").write_text((json.dumps(good) + "\n") * 20)
    return {"name": "jsonl", "path": str(tmp_path / "my.jsonl")}


def test_shards_are_split_and_streamed(run, spec, capsys):
    parts = load_splits(spec | {"augment": {"zoom_out": [2, 2]}}, run)
    assert "2 shards; 2 records of the first ones for validation and test" in capsys.readouterr().out
    assert isinstance(parts["train"], Augmented)
    validation = make_dataset(parts["validation"], Numbered(), run)
    train = make_dataset(parts["train"], Numbered(), run, max_bad_share=0.3)
    assert isinstance(validation, TaskDataset)
    assert isinstance(train, TaskStream)
    assert (train.rank, train.world_size, train.seed, train.max_bad_share) == (0, 1, 4, 0.3)
    assert [validation[index].prefix for index in range(len(validation))] == ["0", "1"]
    seen = {next(examples).prefix for examples in [iter(train)] for _ in range(18)}
    assert seen == {str(number) for number in range(2, 20)}
    assert parts["validation"][0]["image"].size == (8, 8)


def test_first_records_of_either_kind(run, spec, lines):
    shards, file = load_splits(spec, run), load_splits(lines, run)
    assert [record["captions"]["en"] for record in first_records(shards["train"], 3)] == ["2", "3", "4"]
    assert len(list(first_records(shards["train"], 99))) == 18
    assert len(list(first_records(shards["validation"], 99))) == 2
    assert [record["id"] for record in first_records(file["train"], 2)] == [file["train"][i]["id"] for i in range(2)]


def test_a_mixture_with_a_stream_is_a_stream(run, spec, lines):
    streams, files = load_splits(spec | {"length": 18}, run), load_splits(lines, run)
    members = {
        "a": make_dataset(streams["train"], Numbered(), run),
        "b": make_dataset(files["train"], Numbered(), run),
    }
    both = mix_datasets(members, {"a": "size", "b": "size"}, run, temperature=2.0)
    assert isinstance(both, StreamMixture)
    assert both.weights == pytest.approx({"a": 18**0.5 / (18**0.5 + 4), "b": 4 / (18**0.5 + 4)})
    assert [row.expected_examples for row in both.table()] == pytest.approx([80 * w for w in both.weights.values()])
    alone = mix_datasets({"b": members["b"]}, {"b": 2.0}, run)
    assert isinstance(alone, Mixture)
    assert len(alone) == 80


def test_mistakes_are_configuration_errors(run, spec, tmp_path):
    with pytest.raises(ConfigError, match="there is no shard"):
        load_splits(spec | {"path": str(tmp_path / "none.tar")}, run)
    with pytest.raises(ConfigError, match="validation_path: there is no shard"):
        load_splits(spec | {"validation_path": str(tmp_path / "none.tar")}, run)
    with pytest.raises(ConfigError, match="has no option 'split'"):
        load_splits(spec | {"split": "train"}, run)
    members = {"a": make_dataset(load_splits(spec, run)["train"], Numbered(), run)}
    with pytest.raises(ConfigError, match="the size of a is not known"):
        mix_datasets(members, {"a": "size"}, run)
    with pytest.raises(ConfigError, match="the weight of a is a number or size, not 'big'"):
        mix_datasets(members, {"a": "big"}, run)
    with pytest.raises(ConfigError, match="one must be positive"):
        mix_datasets(members, {"a": 0.0}, run)
