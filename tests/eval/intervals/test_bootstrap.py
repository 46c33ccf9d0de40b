import numpy as np
import pytest

from openpali.eval.answering.evaluate_task import TaskResult, load_metric
from openpali.eval.intervals.bootstrap import Ratios, differences, full_sample, intervals, ratio, resamples
from openpali.eval.intervals.by_metric import add_intervals, compare_results, statistics

RNG = np.random.default_rng(7)
COUNT = 60
WORDS = ["yes", "no", "red", "dog", "two", "3", "30", "4%", "yes", "no"]


def result_of(metric, predictions, references):
    found = load_metric(metric).compute(predictions=predictions, references=references, return_scores=True)
    scores = found.pop("scores")
    rows = [
        {"id": f"id-{i}", "prediction": prediction, "reference": reference, "score": score}
        for i, (prediction, reference, score) in enumerate(zip(predictions, references, scores, strict=True))
    ]
    numbers = {key: float(value) for key, value in found.items() if not isinstance(value, str)}
    return TaskResult("task", numbers | {"examples": float(len(rows))}, rows, next(iter(numbers)))


def words(count=COUNT):
    return [str(word) for word in RNG.choice(WORDS, count)]


def questions(types, answers=1, count=COUNT):
    kinds = [types[i % len(types)] for i in range(count)]
    return [{"answers": words(answers), "type": kind} for kind in kinds]


def boxes(scored=True):
    images = []
    for _ in range(COUNT):
        some = []
        for _ in range(RNG.integers(0, 5)):
            (x, y), (width, height) = RNG.integers(0, 4, 2) / 8, RNG.integers(1, 5, 2) / 8
            score = {"score": float(RNG.random())} if scored else {}
            some.append({"box": [x, y, x + width, y + height], "label": str(RNG.choice(["a", "b", "c"])), **score})
        images.append(some)
    return images


def masks(labels=("a", "b"), most=4, least=0):
    images = []
    for _ in range(COUNT):
        some = []
        for _ in range(RNG.integers(least, most)):
            start, length = (int(number) for number in RNG.integers(1, 30, 2))
            mask = {"size": [8, 8], "counts": [start, length, 64 - start - length]}
            some.append({"box": [0.0, 0.0, start / 30, 1.0], "label": str(RNG.choice(labels)), "mask": mask})
        images.append(some)
    return images


def captions(count=COUNT):
    return [
        " ".join(RNG.choice(["a", "the", "dog", "cat", "sits", "on", "red", "mat"], RNG.integers(1, 9)))
        for _ in range(count)
    ]


def caption_references(types=("",)):
    return [{"answers": captions(2), "type": types[i % len(types)]} for i in range(COUNT)]


CASES = {
    "exact_match": lambda: (words(), questions(["a/b", "c"])),
    "count_accuracy": lambda: (words(), questions([""])),
    "vqa": lambda: (words(), questions(["", "x"], answers=4)),
    "vqav2": lambda: (words(), questions(["yes/no", "number", "other"], answers=10)),
    "anls": lambda: (words(), questions([""], answers=2)),
    "relaxed_accuracy": lambda: (words(), questions(["human", "human", "augmented"])),
    "tallyqa": lambda: (words(), questions(["simple", "complex"])),
    "rsvqa": lambda: (words(), questions(["presence", "count", "comp", "presence"])),
    "science_qa": lambda: (
        ["The answer is B."] * COUNT,
        [{"answers": ["ab"[i % 2]], "type": ""} for i in range(COUNT)],
    ),
    "pope": lambda: (words(), [{"answers": ["yes" if i % 3 else "no"], "type": "popular"} for i in range(COUNT)]),
    "detection": lambda: (boxes(), boxes(scored=False)),
    "segmentation": lambda: (masks(), masks()),
    "cider": lambda: (captions(), caption_references()),
    "captions": lambda: (captions(), caption_references(("de", "en", "en"))),
}
# numbers that depend on the references of the whole set, which a resample does not change
FIXED = ("cider", "cider_de", "cider_en")


@pytest.mark.parametrize("metric", CASES)
def test_every_number_of_a_metric_is_that_of_the_resample(metric, monkeypatch):
    """Weighted sums give what the metric gives for the resampled examples themselves."""
    monkeypatch.setattr("shutil.which", lambda name: None)
    predictions, references = CASES[metric]()
    result = result_of(metric, predictions, references)
    made = statistics(metric, result)
    assert set(made) == set(result.metrics) - {"examples"}
    for weights in (np.ones(COUNT), *next(iter(resamples(COUNT, 3, seed=3)))):
        drawn = np.repeat(np.arange(COUNT), weights.astype(int))
        again = result_of(metric, [predictions[i] for i in drawn], [references[i] for i in drawn]).metrics
        for key, statistic in made.items():
            if key in FIXED and weights.max() > 1:
                continue
            assert statistic(weights[None])[0] == pytest.approx(again[key], abs=1e-6), key


def test_cider_of_a_resample_is_the_mean_of_its_captions_scores():
    result = result_of("cider", captions(), caption_references())
    (weights,) = next(iter(resamples(COUNT, 1)))
    expected = np.average([row["score"] for row in result.predictions], weights=weights)
    assert statistics("cider", result)["cider"](weights[None])[0] == pytest.approx(expected)


def test_a_resample_draws_as_many_examples_with_replacement():
    rows = np.concatenate(list(resamples(50, 300, seed=1)))
    assert rows.shape == (300, 50)
    assert (rows.sum(axis=1) == 50).all()
    # each example is left out of a share of about 1 / e
    assert (rows == 0).mean() == pytest.approx(np.exp(-1), abs=0.01)
    assert rows.mean(axis=0) == pytest.approx(np.ones(50), abs=0.25)
    assert (rows == np.concatenate(list(resamples(50, 300, seed=1)))).all()
    assert (rows != np.concatenate(list(resamples(50, 300, seed=2)))).any()


def test_resamples_in_parts_are_as_many(monkeypatch):
    monkeypatch.setattr("openpali.eval.intervals.bootstrap._NUMBERS_AT_ONCE", 120)
    parts = list(resamples(50, 5))
    assert [len(part) for part in parts] == [2, 2, 1]
    assert all((part.sum(axis=1) == 50).all() for part in parts)


def test_an_interval_is_as_wide_as_theory_says():
    """1.96 standard errors of a share on each side."""
    scores = np.arange(400) % 4 == 0
    low, high = intervals({"share": ratio(scores, np.ones(400))}, 400, count=4000)["share"]
    error = 1.96 * np.sqrt(0.25 * 0.75 / 400)
    assert (low, high) == (pytest.approx(0.25 - error, abs=0.005), pytest.approx(0.25 + error, abs=0.005))


def test_intervals_hold_the_true_value_as_often_as_they_say():
    hits = 0
    for trial in range(200):
        scores = np.random.default_rng(trial).random(100) < 0.3
        low, high = intervals({"share": ratio(scores, np.ones(100))}, 100, count=300, seed=trial)["share"]
        hits += low <= 0.3 <= high
    assert 0.9 <= hits / 200 <= 0.99


def test_a_paired_difference_is_narrower_than_two_intervals():
    """What is hard for both models cancels out."""
    hard = np.random.default_rng(0).random(300)
    one, two = ratio(hard < 0.6, np.ones(300)), ratio(hard < 0.65, np.ones(300))
    found = differences({"share": one}, {"share": two}, 300)["share"]
    low, high = intervals({"share": one}, 300)["share"]
    assert found.value == pytest.approx(full_sample(two, 300) - full_sample(one, 300))
    assert 0 < found.low < found.value < found.high
    assert found.high - found.low < (high - low) / 2
    assert found.p < 0.05
    same = differences({"share": one}, {"share": one}, 300)["share"]
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)


def test_a_type_that_was_not_drawn_does_not_count():
    groups = Ratios(np.array([[1.0, 0.0], [0.0, 0.0]]), np.eye(2))
    assert groups(np.array([[1.0, 1.0], [2.0, 0.0], [0.0, 2.0]])).tolist() == [0.5, 1.0, 0.0]
    assert np.isnan(groups(np.zeros((1, 2)))[0])
    assert ratio([1.0], [1.0], 0.25)(np.zeros((1, 1)))[0] == 0.25


def test_results_have_intervals_of_every_number_and_none_of_the_count():
    result = result_of("vqa", words(), questions(["x"], answers=3))
    add_intervals(result, "vqa")
    assert set(result.intervals) == set(result.metrics) - {"examples"}
    assert all(low <= result.metrics[key] <= high for key, (low, high) in result.intervals.items())
    again = result_of("vqa", *([row[side] for row in result.predictions] for side in ("prediction", "reference")))
    add_intervals(again, "vqa")
    assert again.intervals == result.intervals


def test_a_number_that_the_sums_do_not_give_has_no_interval():
    result = result_of("exact_match", words(), questions([""]))
    result.metrics["other"] = result.metrics["exact_match"] + 0.1
    assert set(statistics("exact_match", result)) == {"exact_match"}


def test_models_are_compared_on_the_same_examples_only():
    references = questions([""])
    one, two = result_of("vqa", words(), references), result_of("vqa", words(), references)
    found = compare_results("vqa", one, two)
    assert found["accuracy"].value == pytest.approx(two.metrics["accuracy"] - one.metrics["accuracy"])
    two.predictions[0]["id"] = "another"
    with pytest.raises(ValueError, match="not of the same examples"):
        compare_results("vqa", one, two)


def test_ties_of_boxes_are_broken_alike_in_metric_and_bootstrap():
    """Boxes without scores, some images left out, listed in another order."""
    predictions, references = boxes(scored=False), boxes(scored=False)
    order = RNG.permutation(COUNT)
    for rows in (range(COUNT), order):
        result = result_of("detection", [predictions[i] for i in rows], [references[i] for i in rows])
        weights = np.isin(rows, order[:40]).astype(np.float64)[None]
        some = result_of("detection", [predictions[i] for i in order[:40]], [references[i] for i in order[:40]])
        made = statistics("detection", result)
        assert set(made) == {"f1", "precision", "recall", "map", "map50"}
        assert {key: one(weights)[0] for key, one in made.items()} == pytest.approx(
            {key: some.metrics[key] for key in made}, abs=1e-6
        )


@pytest.mark.parametrize("metric", ["detection", "segmentation"])
def test_resamples_without_anything_to_find_have_no_value(metric):
    predictions, references = CASES[metric]()
    references[1:] = [[] for _ in references[1:]]
    references[0] = references[0] or next(boxes for boxes in CASES[metric]()[1] if boxes)
    result = result_of(metric, predictions, references)
    weights = np.ones((2, COUNT))
    weights[1, 0] = 0
    for key, statistic in statistics(metric, result).items():
        assert np.isnan(statistic(weights)).tolist() == [False, key != "invalid"], key
    add_intervals(result, metric)
    assert not np.isnan(list(result.intervals.values())).any()
