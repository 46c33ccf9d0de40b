"""Scores by group against what is computed by hand, by the metric itself, and by simulation."""

import json

import numpy as np
import pytest
from transformers import BertConfig, BertForSequenceClassification

from openpali.data.example import Example
from openpali.eval.answering.evaluate_task import TaskResult, load_metric
from openpali.eval.groups.attributes import check_labels, natural, read_attributes
from openpali.eval.groups.report import Classifier, add_groups, group_lines
from openpali.eval.groups.scores import SHUFFLES, score_groups
from openpali.eval.groups.toxicity import check_label, toxic_probabilities
from openpali.eval.intervals.bootstrap import ratio


def rows_of(scores, *labels):
    return [
        {"id": str(i), "text": "dog" if score else "cat", "prediction": "dog" if score else "cat"}
        | {"reference": ["dog"], "references": ["dog"], "score": float(score), "groups": groups}
        for i, (score, groups) in enumerate(zip(scores, labels, strict=True))
    ]


def result_of(rows):
    mean = sum(row["score"] for row in rows) / len(rows)
    return TaskResult("what", {"exact_match": mean, "examples": float(len(rows))}, rows, "exact_match")


def two_groups(first, second, size=40):
    """Examples of which so many are right, in two groups."""
    scores = [i < first for i in range(size)] + [i < second for i in range(size)]
    return rows_of(scores, *[{"age": "old"}] * size, *[{"age": "young"}] * size)


def test_a_group_is_scored_from_its_examples_alone():
    result = result_of(two_groups(30, 20))
    add_groups(result, "exact_match", ["age"])
    (measure,) = result.groups["measures"]
    assert measure["value"] == pytest.approx(50 / 80)
    (age,) = measure["attributes"]
    assert [(one["name"], one["examples"], one["value"]) for one in age["groups"]] == [
        ("old", 40, 0.75),
        ("young", 40, 0.5),
    ]
    assert age["median"] == pytest.approx(0.625)
    assert age["value"] == pytest.approx(50 / 80)
    gap = age["gap"]
    assert (gap["highest"], gap["lowest"], gap["examples"]) == ("old", "young", 80)
    assert gap["value"] == pytest.approx(0.25)
    low, high = gap["interval"]
    # of two independent means: 1.96 standard errors on both sides
    error = 1.96 * (0.75 * 0.25 / 40 + 0.5 * 0.5 / 40) ** 0.5
    assert (low, high) == (pytest.approx(0.25 - error, abs=0.03), pytest.approx(0.25 + error, abs=0.03))
    # Fisher's exact test of this table gives 0.036
    assert gap["p"] == pytest.approx(0.036, abs=0.015)
    json.dumps(result.groups)
    (line, note) = group_lines(result.groups)
    assert line.startswith("age, exact match: largest gap 25.0 points (")
    assert "between old and young (80 examples)" in line
    assert note.startswith("Toxicity was not measured: --toxicity takes")


def test_labels_that_say_nothing_have_a_large_p_however_many_groups_there_are():
    generator = np.random.default_rng(0)
    found = []
    for _ in range(20):
        scores = generator.random(200) < 0.5
        rows = rows_of(scores, *[{"kind": str(i % 10)} for i in range(200)])
        (kinds,) = read_attributes(rows, ["kind"])
        gap = score_groups(ratio(scores.astype(float), np.ones(200)), kinds, 200).gap
        # some two of ten groups are always far apart
        assert gap.value > 0.1
        found.append(gap.p)
    assert min(found) >= 1 / (1 + SHUFFLES)
    assert 0.3 < np.mean(found) < 0.7


def test_a_metric_that_is_no_mean_is_the_metric_of_the_group():
    true = [[{"box": [0, 0, 0.5, 0.5], "label": "dog"}] * (1 + i % 2) for i in range(30)]
    found = [boxes[: i % 3] + [{"box": [0.6, 0.6, 1, 1], "label": "dog"}] * (i % 2) for i, boxes in enumerate(true)]
    compute = load_metric("detection").compute
    whole = compute(predictions=found, references=true, return_scores=True)
    rows = [
        {"id": str(i), "text": "", "prediction": one, "reference": other, "score": score, "groups": {"half": i < 15}}
        for i, (one, other, score) in enumerate(zip(found, true, whole["scores"], strict=True))
    ]
    result = TaskResult("detect", {"f1": whole["f1"], "examples": 30.0}, rows, "f1")
    add_groups(result, "detection", ["half"])
    no, yes = result.groups["measures"][0]["attributes"][0]["groups"]
    assert yes["value"] == pytest.approx(compute(predictions=found[:15], references=true[:15])["f1"])
    assert no["value"] == pytest.approx(compute(predictions=found[15:], references=true[15:])["f1"])


def test_few_examples_and_missing_labels_are_said_and_have_no_part_in_the_gap():
    rows = two_groups(40, 20) + rows_of([0] * 9, *[{"age": "child"}] * 9) + rows_of([1, 0], {}, None)
    result = result_of(rows)
    add_groups(result, "exact_match", ["age"])
    (age,) = result.groups["measures"][0]["attributes"]
    assert (age["few_examples"], age["without_label"]) == (["child"], 2)
    # of those with a label
    assert age["value"] == pytest.approx(60 / 89)
    assert (age["gap"]["highest"], age["gap"]["lowest"]) == ("old", "young")
    alone = result_of(rows_of([0] * 9 + [1] * 40, *[{"age": "child"}] * 9, *[{"age": "old"}] * 40))
    add_groups(alone, "exact_match", ["age"])
    assert alone.groups["measures"][0]["attributes"][0]["gap"] is None
    assert "no gap, fewer than two groups have 10 examples" in group_lines(alone.groups)[0]


def test_groups_that_score_alike_are_two():
    result = result_of(two_groups(20, 20))
    add_groups(result, "exact_match", ["age"])
    gap = result.groups["measures"][0]["attributes"][0]["gap"]
    assert (gap["highest"], gap["lowest"], gap["value"], gap["p"]) == ("old", "young", 0, 1)


def test_labels_are_crossed_and_in_natural_order():
    rows = rows_of([1] * 4, *[{"age": age, "sex": sex} for age in ("10-19", "3-9") for sex in "mf"])
    age, both = read_attributes(rows, ["age", "age+sex"])
    assert list(age.groups) == ["3-9", "10-19"]
    assert list(both.groups) == ["3-9, f", "3-9, m", "10-19, f", "10-19, m"]
    assert sorted(["a2", "a10", "b", "1"], key=natural) == ["1", "a2", "a10", "b"]


def test_an_unknown_label_is_named_before_a_model_is_loaded():
    examples = [
        Example("1", "what", (), "", meta={"groups": {"age": "old", "sex": "f"}}),
        Example("2", "what", (), ""),
    ]
    check_labels(examples, ["age", "age+sex"])
    check_labels(examples[1:], ["age"])
    with pytest.raises(ValueError, match="no example has the label 'aeg'; there are age, sex"):
        check_labels(examples, ["aeg"])
    with pytest.raises(ValueError, match="no example has groups"):
        read_attributes(rows_of([1], None), ["age"])


@pytest.fixture
def classifier(tmp_path, tiny_tokenizer):
    """Two labels with probabilities of their own; what is rude is chance."""
    tiny_tokenizer.save_pretrained(tmp_path)
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    labels = {"id2label": {0: "toxic", 1: "insult"}, "label2id": {"toxic": 0, "insult": 1}}
    config = BertConfig(vocab_size=len(tiny_tokenizer), max_position_embeddings=32, **size, **labels)
    config.problem_type = "multi_label_classification"
    model = BertForSequenceClassification(config)
    model.classifier.weight.data.zero_()
    model.classifier.bias.data[:] = model.classifier.bias.new_tensor([3.0, -3.0])
    model.save_pretrained(tmp_path)
    return str(tmp_path)


def test_toxicity_is_the_probability_of_a_label_of_any_text_classifier(classifier):
    texts = ["a dog", "", "very long " * 90, "a dog"]
    found = toxic_probabilities(classifier, "Toxic", texts)
    # 1 / (1 + exp(-3))
    assert found == [
        pytest.approx(0.9526, abs=1e-4),
        0,
        pytest.approx(0.9526, abs=1e-4),
        pytest.approx(0.9526, abs=1e-4),
    ]
    assert toxic_probabilities(classifier, "insult", ["a"]) == [pytest.approx(0.0474, abs=1e-4)]
    with pytest.raises(ValueError, match="has no label 'rude'; it has toxic, insult"):
        check_label(classifier, "rude")
    with pytest.raises(OSError, match="no folder"):
        check_label("outputs/nowhere", "toxic")


def test_toxic_answers_are_a_measure_of_their_own(classifier):
    rows = two_groups(40, 20)
    for row in rows[:10]:
        row["text"] = ""
    result = result_of(rows)
    add_groups(result, "exact_match", ["age"], Classifier(classifier, "toxic"))
    toxic = result.groups["measures"][1]
    assert (toxic["key"], toxic["value"]) == ("toxic_answers", pytest.approx(70 / 80))
    assert [one["value"] for one in toxic["attributes"][0]["groups"]] == [0.75, 1]
    assert result.groups["notes"] == [
        f"Toxic answers: the share with a probability of 0.8 or more of the label 'toxic' of {classifier}."
    ]
    assert rows[0]["toxicity"] == 0
    assert rows[20]["toxicity"] == pytest.approx(0.9526, abs=1e-3)
