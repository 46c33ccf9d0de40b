"""Metrics of answers against the reference's cases, and against inputs that are odd or wrong."""

import json
import random
from pathlib import Path

import pytest
from PIL import Image

from openpali.data.tasks import load_task
from openpali.eval.answering.decoding import Answer
from openpali.eval.answering.evaluate_task import load_metric, score_predictions
from openpali.eval.answering.predictions import prediction_row

CASES = json.loads((Path(__file__).parents[2] / "fixtures" / "metric_cases.json").read_text())
NAMES = ["vqav2", "vqa", "anls", "relaxed_accuracy", "tallyqa", "rsvqa", "science_qa", "exact_match", "count_accuracy"]


def ten(answer):
    return [answer] * 10


def compute(name, predictions, references, **options):
    return load_metric(name).compute(predictions=predictions, references=references, return_scores=True, **options)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_text_is_named_with_a_remedy(name):
    fine = ten("the answer is b.")
    with pytest.raises(ValueError, match="prediction 1 is None, which is no text: a missing answer is ''"):
        compute(name, ["a", None], [fine, fine])
    with pytest.raises(ValueError, match="prediction 0 is 5, which is no text: turn it into a str"):
        compute(name, [5], [fine])
    with pytest.raises(ValueError, match="reference 1 is None: it must be a str, a list of str"):
        compute(name, ["a", "a"], [fine, None])
    with pytest.raises(ValueError, match="reference 0 is 5: it must be"):
        compute(name, ["a"], [5])
    with pytest.raises(ValueError, match="reference 0 has the answer None"):
        compute(name, ["a"], [[None]])
    with pytest.raises(ValueError, match="reference 0 is {'answer': 'a'}: it must be"):
        compute(name, ["a"], [{"answer": "a"}])
    with pytest.raises(ValueError, match="prediction 0 has no reference: give at least one"):
        compute(name, ["a"], [[]])
    with pytest.raises(ValueError, match="1 predictions and 2 references"):
        compute(name, ["a"], [fine, fine])


@pytest.mark.parametrize("name", ["exact_match", "count_accuracy", "vqa", "anls", "tallyqa"])
def test_references_of_one_call_may_have_several_forms(name):
    """A column has one form; a list in a column of texts would become the text "['2', '3']"."""
    assert compute(name, ["a", "2", "3"], ["a", ["2"], {"answers": "3"}])["scores"] == [1.0, 1.0, 1.0]


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
    with pytest.raises(ValueError, match="reference 1 has 1 answers: this protocol takes ten annotators'"):
        compute("vqav2", ["a", "a"], [ten("a"), "a"])


def test_vqa_counts_matching_annotators():
    references = ["dog", ["dog"], ["dog", "cat"], ["dog", "dog", "cat"], ["dog"] * 3 + ["cat"], ["Dog"] * 3, ["cat "]]
    result = compute("vqa", ["dog"] * 6 + ["cat"], references)
    assert result["scores"] == pytest.approx([1.0, 1.0, 1 / 3, 2 / 3, 1.0, 0.0, 1.0])
    assert result["accuracy"] == pytest.approx(5 / 7)
    assert result["any_match"] == pytest.approx(6 / 7)
    # "Dog" is one edit of three away
    assert result["anls"] == pytest.approx((6 + 2 / 3) / 7)


def test_vqa_can_mind_case_and_space():
    assert compute("vqa", ["dog"], [["Dog"] * 3], lower=True)["accuracy"] == 1.0
    assert compute("vqa", ["dog"], ["dog "], strip=False)["accuracy"] == 0.0
    # answers are not normalised, unlike in vqav2
    assert compute("vqa", ["2"], [["two"] * 10])["accuracy"] == 0.0


@pytest.mark.parametrize("case", CASES["anls"], ids=lambda case: f"{case['pred']}-{case['target']}")
def test_anls_equals_the_reference(case):
    result = compute("anls", [case["pred"]], [case["target"]])
    assert result["scores"] == [pytest.approx(case["score"], abs=1e-9)]
    assert compute("vqa", [case["pred"]], [case["target"]])["anls"] == pytest.approx(case["score"], abs=1e-9)


def test_anls_takes_the_nearest_answer_whatever_its_case():
    result = compute("anls", ["HELP", "help", ""], [["dog", "hello", "Help"], ["hello"], ["", "dog"]])
    assert result["scores"] == [1.0, pytest.approx(0.6), 1.0]
    assert result["exact_match"] == pytest.approx(2 / 3)
    assert compute("anls", ["HELP"], ["Help"], lower=False)["anls"] == 0.0


@pytest.mark.parametrize("case", CASES["relaxed"], ids=lambda case: f"{case['pred']}-{case['target']}")
def test_relaxed_accuracy_equals_the_reference(case):
    """The reference's function minds case; its evaluation of ChartQA folds it before."""
    result = compute("relaxed_accuracy", [case["pred"]], [case["target"]], lower=False)
    assert result["scores"] == [float(case["ok"])]
    folded = compute("relaxed_accuracy", [case["pred"]], [case["target"]])
    assert folded["scores"] == [float(case["ok"] or case["target"] == "Yes")]


def test_relaxed_accuracy_is_the_mean_of_human_and_augmented():
    """Three augmented questions, two of them right, weigh as much as one human question, which is wrong."""
    references = [{"answers": ["10"], "type": kind} for kind in ("augmented", "human", "augmented", "augmented")]
    result = compute("relaxed_accuracy", ["10.4", "11", "10", "1"], references)
    assert result["relaxed_accuracy_augmented"] == pytest.approx(2 / 3)
    assert result["relaxed_accuracy_human"] == 0.0
    assert result["relaxed_accuracy"] == pytest.approx(1 / 3)
    assert result["exact_match"] == 0.25
    assert compute("relaxed_accuracy", ["10.4", "11"], ["10", "10"])["relaxed_accuracy"] == 0.5
    with pytest.raises(ValueError, match="reference 1 has no type and others have: give all a type, or none"):
        compute("relaxed_accuracy", ["1", "1"], [{"answers": ["1"], "type": "human"}, "1"])


@pytest.mark.parametrize(("word", "digits"), CASES["number_words"].items())
def test_tallyqa_reads_number_words_as_the_reference(word, digits):
    assert compute("tallyqa", [word, digits], [digits, word])["scores"] == [1.0, 1.0]


def test_tallyqa_takes_simple_and_complex_apart():
    kinds = ["simple", "complex", "complex", None]
    references = [{"answers": [count], "type": kind} for count, kind in zip(["2", "3", "4", "5"], kinds)]
    result = compute("tallyqa", ["two", "3", "5", "5 "], references)
    assert result["scores"] == [1.0, 1.0, 0.0, 0.0]
    assert (result["accuracy"], result["accuracy_simple"], result["accuracy_complex"]) == (0.5, 1.0, 0.5)


def test_pope_by_hand():
    said, true = ["Yes", "yes", "no ", "yes.", ""], ["yes", "no", ["No"], "yes", "no"]
    kinds = ["random", "random", "popular", "popular", "adversarial"]
    references = [{"answers": answer, "type": kind} for answer, kind in zip(true, kinds)]
    result = compute("pope", said, references)
    assert result.pop("scores") == [1.0, 0.0, 1.0, 0.0, 0.0]
    by_type = {"accuracy_random": 0.5, "accuracy_popular": 0.5, "accuracy_adversarial": 0.0}
    shares = {"yes_share": 0.4, "no_share": 0.2, "valid": 0.6}
    assert result == pytest.approx({"accuracy": 0.4, "precision": 0.5, "recall": 0.5, "f1": 0.5} | shares | by_type)


def test_pope_refuses_what_is_neither_yes_nor_no():
    nothing = compute("pope", ["", "\u2028", "猫"], ["no"] * 3)
    assert (nothing["scores"], nothing["f1"], nothing["valid"]) == ([0.0] * 3, 0.0, 0.0)
    for wrong in ("maybe", "", ["yes", "no"]):
        with pytest.raises(ValueError, match="POPE's answers are 'yes' or 'no'"):
            compute("pope", ["yes", "yes"], ["yes", wrong])
    with pytest.raises(ValueError, match="prediction 0 is None, which is no text"):
        compute("pope", [None], ["yes"])


def test_rsvqa_overall_and_by_type():
    kinds = ["presence", "presence", "presence", "comp", "count", "rural_urban"]
    references = [{"answers": ["yes"], "type": kind} for kind in kinds]
    result = compute("rsvqa", ["Yes", "yes", "no", "no", "yes", "no"], references)
    assert result["accuracy"] == 0.5
    assert result["mean_accuracy"] == pytest.approx((2 / 3 + 0 + 1 + 0) / 4)
    assert result["mean_accuracy_without_numbers"] == pytest.approx((2 / 3 + 0 + 0) / 3)
    assert (result["accuracy_presence"], result["accuracy_count"]) == (pytest.approx(2 / 3), 1.0)
    plain = compute("rsvqa", ["yes", "no"], ["yes", ["yes", "NO"]])
    assert plain == {"accuracy": 1.0, "mean_accuracy": 1.0, "scores": [1.0, 1.0]}


def test_science_qa_reads_the_letter_at_the_start():
    answers = {"The answer is B.": 1, "the ANSWER is b. It is warm.": 1, "The answer is C.": 0, "The answer is B": 0}
    answers |= {"B": 0, "I think the answer is B.": 0, "The answer is  B.": 0, "The answer is bb.": 0, "": 0}
    result = compute("science_qa", list(answers), ["The answer is B."] * len(answers))
    assert result["scores"] == list(answers.values())
    assert result["unparsed"] == pytest.approx(6 / 9)
    assert compute("science_qa", list(answers), ["b"] * len(answers)) == result
    with pytest.raises(ValueError, match="reference 0 is 'warm': it must be a letter, 'B', or 'The answer is B.'"):
        compute("science_qa", ["The answer is B."], ["warm"])


@pytest.mark.parametrize(
    ("name", "key", "answers", "expected"),
    [("vqav2", "accuracy", ["two"] * 3 + ["3"] * 7, [0.9, 0.0]), ("anls", "anls", ["2", "23"], [1.0, 0.0])],
)
def test_tasks_take_them_by_name(name, key, answers, expected):
    """Every answer of an Example reaches the metric, and each row of the predictions gets its own score."""
    task = load_task({"name": "plain", "metric": name, "metric_key": key})
    image = Image.new("RGB", (4, 4))
    record = {"id": "1", "image": image, "prefix": "how many?", "suffix": "3", "references": answers}
    example = task.example(record, random.Random(0))
    rows = [prediction_row(i, example, task, Answer(text)) for i, text in enumerate([" 2 ", "none"])]
    result = score_predictions(task, json.loads(json.dumps(rows)))
    assert [row["score"] for row in result.predictions] == pytest.approx(expected)
    assert result.score == pytest.approx(sum(expected) / 2)


def test_exact_match_by_type():
    references = [{"answers": ["a"], "type": "left"}, {"answers": ["b"], "type": "right"}, "c"]
    result = compute("exact_match", ["a", "x", "c"], references)
    assert result["exact_match"] == pytest.approx(2 / 3)
    assert (result["exact_match_left"], result["exact_match_right"]) == (1.0, 0.0)
