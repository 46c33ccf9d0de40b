import io
import itertools
import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torchdata.stateful_dataloader import StatefulDataLoader

from openpali.data.example import Example
from openpali.data.mixture import Mixture, TaskDataset, shares
from openpali.data.records import BadRecord, SkipLog
from openpali.data.sources import augmented
from openpali.data.sources.webdataset import WebDataset
from openpali.data.streaming.positions import Reader
from openpali.data.streaming.stream import Examples, ExampleStream, StateMismatch, StreamMixture, TaskStream
from openpali.data.tasks import load_task
from openpali.scripts.web.running.files import write_shard

FILE = io.BytesIO()
Image.new("RGB", (8, 8)).save(FILE, "PNG")
IMAGE = FILE.getvalue()


@dataclass(frozen=True)
class Draw:
    """The record's number as the prefix, a random number as the suffix."""

    name: str = "draw"
    metric: str = "exact_match"
    metric_key: str = "exact_match"
    max_new_tokens: int = 4
    useless: str = "none"

    def example(self, record: dict[str, Any], rng: random.Random) -> Example | None:
        number = record["captions"]["en"]
        return None if number == self.useless else Example(record["id"], self.name, (), number, str(rng.random()))

    def prediction(self, text: str, example: Example) -> str:
        return text

    def reference(self, example: Example) -> list[str]:
        return [example.suffix]


class Numbers:
    """A source that is read by number."""

    name = "numbers"

    def __init__(self, length: int):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return {"id": f"n-{index}", "captions": {"en": f"n{index}"}}


def make_shards(folder: Path, sizes: list[int], broken: tuple[int, ...] = ()) -> str:
    number = 0
    for shard, size in enumerate(sizes):
        samples = []
        for _ in range(size):
            image = b"broken" if number in broken else IMAGE
            samples.append((f"{number:05}", {"png": image, "txt": str(number).encode()}))
            number += 1
        write_shard(folder / f"s-{shard:03}.tar", samples)
    return str(folder)


@pytest.fixture
def folder(tmp_path) -> str:
    return make_shards(tmp_path / "shards", [7, 5, 9, 4, 8])


def stream(folder: str, seed=0, task: Draw | None = None, **options) -> TaskStream:
    source = WebDataset(folder, shuffle=options.pop("shuffle", 6), open_shards=options.pop("open_shards", 2))
    return TaskStream(source, task or Draw(), seed, **options)


def take(examples, count: int) -> list[tuple[str, str]]:
    return [(example.prefix, example.suffix) for example in itertools.islice(examples, count)]


def share(data: ExampleStream, index: int, readers: int) -> Iterator[Example]:
    return Examples(data.cursor(Reader(index, readers)), Reader(index, readers), "")


@pytest.mark.parametrize("readers", [1, 2, 3, 4, 8, 11])
def test_readers_share_a_pass_without_overlap_and_together_see_all(folder, readers):
    for epochs in (1, 2):
        seen = Counter()
        for index in range(readers):
            seen.update(prefix for prefix, _ in take(share(stream(folder, epochs=epochs), index, readers), 10**6))
        assert seen == dict.fromkeys(map(str, range(33)), epochs)


def test_order_is_of_the_seed_and_new_in_every_pass(folder):
    whole = take(stream(folder), 66)
    assert take(stream(folder), 66) == whole
    assert take(stream(folder, seed=1), 66) != whole
    first, second = [p for p, _ in whole[:33]], [p for p, _ in whole[33:]]
    assert sorted(first) == sorted(second)
    assert first != second
    assert first[:6] != sorted(first[:6], key=int)
    # choices are drawn anew too
    assert not {s for _, s in whole[:33]} & {s for _, s in whole[33:]}
    # whoever reads a record draws the same choices
    other = [item for index in (0, 1) for item in take(share(stream(folder, epochs=1), index, 2), 99)]
    assert sorted(other) == sorted(whole[:33])


def test_blocks_mix_several_shards(folder):
    first = [int(prefix) for prefix, _ in take(stream(folder, shuffle=8, open_shards=4), 8)]
    edges = (7, 12, 21, 25, 33)
    assert len({next(i for i, edge in enumerate(edges) if number < edge) for number in first}) == 4


@pytest.mark.parametrize("at", [0, 1, 5, 6, 7, 20, 32, 33, 34, 50])
def test_a_position_goes_on_exactly(folder, at):
    whole = take(stream(folder), 90)
    examples = iter(stream(folder))
    take(examples, at)
    state = json.loads(json.dumps(examples.state_dict()))
    resumed = iter(stream(folder))
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert take(resumed, 40) == whole[at:][:40]


def test_what_was_given_before_is_not_decoded_again(folder, monkeypatch):
    examples = iter(stream(folder, shuffle=20))
    for _ in range(15):
        next(examples)
    decoded = []
    real = WebDataset.record
    monkeypatch.setattr(WebDataset, "record", lambda self, sample: decoded.append(1) or real(self, sample))
    resumed = iter(stream(folder, shuffle=20))
    resumed.load_state_dict(examples.state_dict())
    next(resumed)
    assert len(decoded) == 1


def test_positions_of_other_workers_or_other_data_are_refused(folder, tmp_path):
    state = iter(stream(folder)).state_dict()
    with pytest.raises(StateMismatch, match="worker 0 of 1, this is 0 of 2"):
        iter(stream(folder, rank=0, world_size=2)).load_state_dict(state)
    for other in (stream(folder, seed=1), stream(folder, shuffle=7), stream(make_shards(tmp_path / "b", [3] * 4))):
        with pytest.raises(StateMismatch, match="other data"):
            iter(other).load_state_dict(state)


def loader(data, workers: int) -> StatefulDataLoader:
    return StatefulDataLoader(data, 4, num_workers=workers, collate_fn=plain, drop_last=True)


def plain(examples: list[Example]) -> list[tuple[str, str]]:
    return [(example.prefix, example.suffix) for example in examples]


def mixed(folder: str, **options) -> StreamMixture:
    members = {"stream": stream(folder), "numbers": TaskDataset(Numbers(10), Draw())}
    return StreamMixture(members, {"stream": 3, "numbers": 1}, 100, **options)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("make", [stream, mixed])
def test_a_loader_goes_on_with_the_same_batches(folder, workers, make):
    batches = iter(whole := loader(make(folder), workers))
    for _ in range(7):
        next(batches)
    # what workers have prepared beyond batch 7 must not count
    state = json.loads(json.dumps(whole.state_dict()))
    rest = [next(batches) for _ in range(15)]
    resumed = loader(make(folder), workers)
    resumed.load_state_dict(state)
    again = iter(resumed)
    assert [next(again) for _ in range(15)] == rest


def test_workers_see_a_pass_once(folder):
    batches = StatefulDataLoader(stream(folder, epochs=1), 4, num_workers=2, collate_fn=plain)
    seen = [prefix for batch in batches for prefix, _ in batch]
    assert sorted(seen, key=int) == [str(n) for n in range(33)]


def test_bad_records_are_listed_once_and_too_many_end_the_run(tmp_path):
    folder = make_shards(tmp_path / "few", [60, 60], broken=(3, 80))
    log = SkipLog(tmp_path / "skipped.jsonl")
    seen = [prefix for prefix, _ in take(stream(folder, skip_log=log, epochs=2), 999)]
    assert Counter(seen) == dict.fromkeys((str(n) for n in range(120) if n not in (3, 80)), 2)
    listed = sorted((row["file"], row["record"]) for row in log.read())
    assert listed == [("s-000.tar", "00003"), ("s-001.tar", "00080")]
    many = make_shards(tmp_path / "many", [60, 60], broken=tuple(range(5, 25)))
    with pytest.raises(
        BadRecord, match="s-00.*with it [0-9]+ of [0-9]+ records cannot be used, more than.*raise max_bad_share"
    ):
        take(stream(many, epochs=3), 999)
    assert len(take(stream(many, epochs=1, max_bad_share=0.5), 999)) == 100


def test_counts_of_bad_records_are_part_of_the_position(tmp_path):
    folder = make_shards(tmp_path / "many", [40], broken=(0, 1, 2))
    examples = iter(stream(folder, shuffle=1))
    take(examples, 5)
    resumed = iter(stream(folder, shuffle=1))
    resumed.load_state_dict(examples.state_dict())
    state = resumed.cursor.state_dict()
    assert (state["bad"], state["read"]) == (3, 8)


def test_a_damaged_shard_is_passed_over_and_many_end_the_run(folder):
    paths = sorted(Path(folder).iterdir())
    paths[2].write_bytes(paths[2].read_bytes()[: 512 * 9])
    log = SkipLog()
    seen = [int(prefix) for prefix, _ in take(stream(folder, skip_log=log, epochs=1), 99)]
    assert set(range(12)) | set(range(21, 33)) <= set(seen)
    assert 12 in seen
    assert 20 not in seen
    assert [row["file"] for row in log.read()] == ["s-002.tar"]
    many = Path(folder).with_name("many")
    make_shards(many, [20] * 12)
    for path in sorted(many.iterdir())[:4]:
        path.write_bytes(path.read_bytes()[:-12_000])
    with pytest.raises(BadRecord, match="with it 2 of 1. shards cannot be used"):
        take(stream(str(many), epochs=1), 999)


def test_a_task_without_use_for_any_record_says_so(folder, tmp_path):
    one = make_shards(tmp_path / "one", [1])
    with pytest.raises(BadRecord, match="none of 21 records in a row suits the task"):
        next(iter(stream(one, task=Draw(useless="0"))))
    with pytest.raises(BadRecord, match="needs 'objects', which it does not have"):
        take(TaskStream(WebDataset(folder), load_task({"name": "detect"})), 20)


def test_mixtures_keep_weights_and_read_every_part(folder):
    mixture = mixed(folder)
    assert [(row.name, row.task, row.source, row.weight, row.expected_examples) for row in mixture.table()] == [
        ("stream", "draw", "webdataset", 0.75, 75),
        ("numbers", "draw", "numbers", 0.25, 25),
    ]
    seen = Counter(prefix for prefix, _ in take(mixture, 2000))
    numbers = [seen[f"n{index}"] for index in range(10)]
    assert sum(numbers) == pytest.approx(500, abs=70)
    # each of the ten comes once a pass
    assert max(numbers) - min(numbers) <= 1
    counts = [seen[str(number)] for number in range(33)]
    assert max(counts) - min(counts) <= 1
    assert take(mixed(folder, seed=1), 20) != take(mixed(folder), 20)


@pytest.mark.parametrize("readers", [2, 3, 12])
def test_readers_share_data_that_is_read_by_number(folder, readers):
    dataset = TaskDataset(Numbers(12), Draw())
    mixture = StreamMixture({"numbers": dataset}, num_examples=1)
    seen = Counter()
    for index in range(readers):
        seen.update(prefix for prefix, _ in take(share(mixture, index, readers), 24 // readers))
    assert seen == {f"n{index}": 2 for index in range(12)}


def test_augmentations_are_new_in_every_pass(folder):
    source = augmented(WebDataset(folder), {"zoom_out": [1, 4]})
    task = load_task({"name": "caption"})
    sizes: dict[str, set] = {}
    for example in TaskStream(source, task, epochs=3):
        sizes.setdefault(example.id, set()).add(example.images[0].size)
    assert len(sizes) == 33
    assert sum(len(own) > 1 for own in sizes.values()) > 25


def test_temperature_raises_small_shares():
    sizes = {"large": 900.0, "small": 100.0, "none": 0.0}
    assert shares(list(sizes), sizes) == {"large": 0.9, "small": 0.1, "none": 0.0}
    assert shares(list(sizes), sizes, 2.0) == pytest.approx({"large": 0.75, "small": 0.25, "none": 0.0})
    assert shares(list(sizes), sizes, 1e9)["small"] == pytest.approx(0.5)
    with pytest.raises(ValueError, match="temperature=0 must be positive"):
        shares(list(sizes), sizes, 0)
    dataset = TaskDataset(Numbers(5), Draw())
    assert Mixture({"a": dataset, "b": dataset}, {"a": 9, "b": 1}, temperature=2.0).weights == {"a": 0.75, "b": 0.25}
