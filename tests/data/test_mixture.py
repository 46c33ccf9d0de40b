import multiprocessing
import random
from dataclasses import dataclass
from typing import Any

import pytest
from PIL import Image
from torch.utils.data import DataLoader

from openpali.data.example import Example
from openpali.data.mixture import Mixture, TaskDataset
from openpali.data.records import BadRecord, SkipLog
from openpali.data.sources.builtin.emoji import EmojiScenes
from openpali.data.sources.jsonl import JsonlSource
from openpali.data.tasks import load_task

IMAGE = Image.new("RGB", (8, 8))


class Numbers:
    """Records 0, 1, 2 …; some are bad and some suit no task."""

    def __init__(self, length: int, bad: set[int] = frozenset(), unsuited: set[int] = frozenset(), name="numbers"):
        self.length, self.broken, self.unsuited, self.name = length, bad, unsuited, name

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if index in self.broken:
            raise BadRecord(self.name, index, "it is bad")
        return {"id": f"{self.name}-{index}", "image": IMAGE, "unsuited": index in self.unsuited}


@dataclass(frozen=True)
class Draw:
    """Answers with a random number."""

    name: str = "draw"
    metric: str = "exact_match"
    metric_key: str = "exact_match"
    max_new_tokens: int = 4

    def example(self, record: dict[str, Any], rng: random.Random) -> Example | None:
        if record["unsuited"]:
            return None
        return Example(record["id"], self.name, (record["image"],), "draw", str(rng.random()))

    def prediction(self, text: str, example: Example) -> str:
        return text

    def reference(self, example: Example) -> list[str]:
        return [example.suffix]


def test_an_item_is_a_function_of_seed_and_index():
    dataset = TaskDataset(Numbers(50), Draw(), seed=3)
    first = [dataset[index].suffix for index in range(50)]
    again = TaskDataset(Numbers(50), Draw(), seed=3)
    assert [again[index].suffix for index in reversed(range(50))][::-1] == first
    assert len(set(first)) == 50
    other = TaskDataset(Numbers(50), Draw(), seed=4)
    assert not set(first) & {other[index].suffix for index in range(50)}
    assert first[7] == str(random.Random("3-7").random())


def test_bad_and_unsuited_records_are_replaced_by_the_next():
    log = SkipLog()
    dataset = TaskDataset(Numbers(40, bad={3, 39}, unsuited={4}), Draw(), skip_log=log)
    ids = [dataset[index].id for index in range(40)]
    expected = [f"numbers-{ {3: 5, 4: 5, 39: 0}.get(index, index) }" for index in range(40)]
    assert ids == expected
    assert [row["record"] for row in log.read()] == ["3", "39"]


@pytest.mark.parametrize("seed", range(5))
def test_too_many_bad_records_end_the_reading_wherever_they_are(seed):
    """Judged against the whole source: a tenth may be bad, in whatever order records are read."""
    order, bad = random.Random(seed).sample(range(100), 100), set(random.Random(-1 - seed).sample(range(100), 10))
    few = TaskDataset(Numbers(100, bad=bad), Draw())
    assert len([few[index] for index in order]) == 100
    many = TaskDataset(Numbers(100, bad=bad | {min(set(range(100)) - bad)}), Draw(), split="validation")
    reason = "it is bad; with it 11 of 100 records of the validation split cannot be used, more than max_bad_share=0.1"
    with pytest.raises(BadRecord, match=f"numbers:[0-9]+: {reason}. Fix the data, or raise max_bad_share."):
        [many[index] for index in order]
    lenient = TaskDataset(Numbers(100, bad=set(range(45))), Draw(), max_bad_share=0.5)
    assert lenient[0].id == "numbers-45"


def test_a_bad_record_or_two_of_a_small_source_do_not_end_the_reading():
    dataset = TaskDataset(Numbers(9, bad={2, 3}), Draw())
    assert [dataset[index].id for index in (2, 3)] == ["numbers-4", "numbers-4"]


def test_bad_records_of_all_processes_count_together(tmp_path):
    """Three workers find five each, none of them too many by itself."""
    path, found = tmp_path / "skipped.jsonl", []
    workers = [TaskDataset(Numbers(100, bad=set(range(15))), Draw(), skip_log=SkipLog(path)) for _ in range(3)]
    for place in range(15):
        worker = workers[place % 3]
        worker.source.broken = {place}
        try:
            worker[place]
        except BadRecord as bad:
            found.append(str(bad))
    assert [text.split("; ")[1][:16] for text in found] == [f"with it {count} of 10" for count in range(11, 16)]
    assert len(SkipLog(path).read()) == 15


def test_what_an_earlier_run_found_bad_does_not_count(tmp_path):
    path = tmp_path / "skipped.jsonl"
    before = TaskDataset(Numbers(100, bad=set(range(10))), Draw(), skip_log=SkipLog(path))
    assert before[0].id == "numbers-10"
    mended = TaskDataset(Numbers(100, bad={5, 50}), Draw(), skip_log=SkipLog(path))
    assert mended[5].id == "numbers-6"
    other = TaskDataset(Numbers(100, bad={60}), Draw(), skip_log=SkipLog(path), split="validation")
    assert [other[60].id, mended[50].id] == ["numbers-61", "numbers-51"]


def test_records_without_any_use():
    with pytest.raises(BadRecord, match="no record can be used"):
        TaskDataset(Numbers(5, bad=set(range(5))), Draw())[0]
    with pytest.raises(ValueError, match="no record of the source 'numbers' suits the task 'draw'"):
        TaskDataset(Numbers(5, unsuited=set(range(5))), Draw())[0]
    with pytest.raises(ValueError, match="is empty"):
        TaskDataset(Numbers(0), Draw())
    with pytest.raises(ValueError, match="'caption' needs 'captions', which the records of the source 'numbers'"):
        TaskDataset(Numbers(5), load_task({"name": "caption"}))[0]
    with pytest.raises(IndexError, match="example 5 of 5"):
        TaskDataset(Numbers(5), Draw())[5]


def test_what_a_source_left_out_is_in_the_skip_log(write_jsonl, tmp_path):
    good = {"image": "good.png", "prefix": "p", "suffix": "s"}
    source = JsonlSource(write_jsonl([good, {**good, "image": "none.png"}, good]))
    log = SkipLog(tmp_path / "skipped.jsonl")
    dataset = TaskDataset(source, load_task({"name": "plain"}), skip_log=log)
    assert [dataset[index].id for index in range(2)] == ["my.jsonl:1", "my.jsonl:3"]
    assert [row["record"] for row in log.read()] == ["2"]


def make_mixture(seed: int = 0, num_examples: int = 4000) -> Mixture:
    datasets = {"a": TaskDataset(Numbers(50, name="a"), Draw()), "b": TaskDataset(Numbers(7, name="b"), Draw())}
    return Mixture(datasets, {"a": 3, "b": 1}, num_examples, seed)


def test_weights_are_kept_and_reported():
    mixture = make_mixture()
    ids = [mixture[index].id for index in range(4000)]
    assert sum(name.startswith("a-") for name in ids) == pytest.approx(3000, abs=110)
    assert len(set(ids)) == 57
    rows = mixture.table()
    assert [(row.name, row.task, row.source) for row in rows] == [("a", "draw", "a"), ("b", "draw", "b")]
    assert [(row.weight, row.expected_examples) for row in rows] == [(0.75, 3000), (0.25, 1000)]


def test_a_mixture_is_a_function_of_seed_and_index_and_draws_afresh():
    mixture = make_mixture()
    suffixes = [mixture[index].suffix for index in range(300)]
    assert [make_mixture(num_examples=9999)[index].suffix for index in reversed(range(300))][::-1] == suffixes
    # the same record comes again with other choices
    assert len(set(suffixes)) == 300
    assert suffixes[:20] != [make_mixture(seed=1)[index].suffix for index in range(20)]


def test_weights_that_make_no_sense():
    dataset = TaskDataset(Numbers(5), Draw())
    for weights, message in [
        ({"b": 1.0}, "weights are for"),
        ({"a": -1.0}, "none may be negative"),
        ({"a": 0.0}, "one must be positive"),
    ]:
        with pytest.raises(ValueError, match=message):
            Mixture({"a": dataset}, weights)
    assert [row.weight for row in Mixture({"a": dataset, "b": dataset}).table()] == [0.5, 0.5]
    never = Mixture({"a": dataset, "b": TaskDataset(Numbers(5, name="b"), Draw())}, {"a": 1, "b": 0}, 200)
    assert all(never[index].id.startswith("numbers") for index in range(200))


def _texts(folder) -> list[tuple[str, str, bytes]]:
    scenes = EmojiScenes(objects=(1, 3), length=30, cache_dir=folder)
    tasks = {name: TaskDataset(scenes, load_task({"name": name})) for name in ("answer", "caption", "detect")}
    mixture = Mixture(tasks, num_examples=20)
    return [(e.prefix, e.suffix, e.images[0].tobytes()) for e in (mixture[index] for index in range(20))]


def test_workers_and_other_processes_read_the_same_examples(drawings):
    here = _texts(drawings)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_texts, (drawings,)) == here
    scenes = EmojiScenes(objects=(1, 3), length=30, cache_dir=drawings)
    tasks = {name: TaskDataset(scenes, load_task({"name": name})) for name in ("answer", "caption", "detect")}
    loader = DataLoader(Mixture(tasks, num_examples=20), batch_size=None, num_workers=2, collate_fn=_as_is)
    assert [(e.prefix, e.suffix, e.images[0].tobytes()) for e in loader] == here


def _as_is(example: Example) -> Example:
    return example


def test_a_run_stopped_in_the_middle_goes_on_with_the_same_examples():
    mixture = make_mixture()
    whole = [mixture[index].suffix for index in range(20)]
    resumed = make_mixture()
    assert [resumed[index].suffix for index in range(11, 20)] == whole[11:]
