"""Metrics of answers against the reference's cases, and against inputs that are odd or wrong."""

import json
from pathlib import Path

import pytest

from openpali.eval.evaluate_task import load_metric

CASES = json.loads((Path(__file__).parents[1] / "fixtures" / "metric_cases.json").read_text())
NAMES = ["vqav2"]


def ten(answer):
    return [answer] * 10


def compute(name, predictions, references, **options):
    return load_metric(name).compute(predictions=predictions, references=references, return_scores=True, **options)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_text_is_named_with_a_remedy(name):
    fine = ten("the answer is b.")
    with pytest.raises(ValueError, match="prediction 1 is None and no text: an answer that is missing is ''"):
        compute(name, ["a", None], [fine, fine])
    with pytest.raises(ValueError, match="prediction 0 is 5 and no text: turn it into a str"):
        compute(name, [5], [fine])
    with pytest.raises(ValueError, match="reference 1 is None: it must be a str, a list of str"):
        compute(name, ["a", "a"], [fine, None])
    with pytest.raises(ValueError, match="reference 0 has the answer None"):
        compute(name, ["a"], [[None]])
    with pytest.raises(ValueError, match="reference 0 is {'answer': 'a'}: it must be"):
        compute(name, ["a"], [{"answer": "a"}])
    with pytest.raises(ValueError, match="prediction 0 has no reference: give at least one"):
        compute(name, ["a"], [[]])
    with pytest.raises(ValueError, match="1 predictions and 2 references"):
        compute(name, ["a"], [fine, fine])


@pytest.mark.parametrize("name", NAMES)
def test_nothing_to_score_is_an_error(name):
    with pytest.raises(ValueError, match="nothing to score"):
        compute(name, [], [])


@pytest.mark.parametrize("name", NAMES)
def test_empty_odd_and_long_answers_are_wrong_answers(name):
    odd = ["", " ", "\u2028", "猫🐈", "{}%", "nan", "x " * 20_000]
    result = compute(name, odd, [{"answers": ten("the answer is b."), "type": "été"}] * len(odd))
    assert result["scores"] == [0.0] * len(odd)


@pytest.mark.parametrize("name", NAMES)
def test_batches_and_single_answers_may_have_any_form(name):
    answers = ten("the answer is b.")
    metric = load_metric(name)
    metric.add(prediction="the answer is b.", reference=answers)
    metric.add_batch(predictions=["c"], references=[{"answers": answers, "type": None}])
    whole = compute(name, ["the answer is b.", "c"], [tuple(answers), answers])
    assert metric.compute(return_scores=True) == whole
    assert whole["scores"] == [1.0, 0.0]


@pytest.mark.parametrize("case", CASES["vqav2_acc"], ids=lambda case: f"{case['answer']}-{case['acc']}")
def test_vqav2_equals_the_reference(case):
    result = compute("vqav2", [case["answer"]], [case["gts"]])
    assert result["scores"] == [pytest.approx(case["acc"], abs=1e-9)]
    assert result["accuracy"] == pytest.approx(case["acc"], abs=1e-9)


def test_vqav2_takes_types_apart():
    references = [
        {"answers": ten("yes"), "type": "yes/no"},
        {"answers": ["two"] * 3 + ["3"] * 7, "type": "number"},
        {"answers": ten("no"), "type": "yes/no"},
    ]
    result = compute("vqav2", ["yes", "2", "yes"], references)
    assert result["scores"] == pytest.approx([1.0, 0.9, 0.0])
    assert result["accuracy"] == pytest.approx(1.9 / 3)
    assert result["accuracy_yes_no"] == 0.5
    assert result["accuracy_number"] == pytest.approx(0.9)


def test_vqav2_where_all_agree_only_space_is_forgiven():
    assert compute("vqav2", [" no\n", "No", "no."], [ten("no\t")] * 3)["scores"] == [1.0, 0.0, 0.0]


def test_vqav2_takes_ten_answers():
    with pytest.raises(ValueError, match="reference 1 has 1 answers: this protocol takes ten people's"):
        compute("vqav2", ["a", "a"], [ten("a"), "a"])
