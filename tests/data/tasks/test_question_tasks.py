"""Questions of public datasets as prompts and targets, and that metrics take what the tasks give them."""

import random
from collections import Counter
from typing import Any

import pytest
from PIL import Image

from openpali.data.mixture import TaskDataset
from openpali.data.tasks import load_task
from openpali.data.tasks.multiple_choice import MultipleChoice
from openpali.data.tasks.science_qa import ScienceQa
from openpali.data.tasks.vqa import Vqa
from openpali.eval.answering.evaluate_task import load_metric

RECORD: dict[str, Any] = {"id": "a:1", "image": Image.new("RGB", (8, 8)), "question": "Which {choices}?"}
RECORD |= {"answers": ["Red"] * 6 + ["wine red "] * 3 + [""], "question_type": "other"}
CHOSEN = RECORD | {"choices": ["milk", "stone", "air"], "correct": 1, "hint": "Look.", "training": True}


def made(task: Any, record: dict[str, Any] = CHOSEN, seed: int = 0) -> Any:
    return task.example(record, random.Random(seed))


def test_a_question_is_put_into_the_prompt():
    assert made(Vqa()).prefix == "answer en Which {choices}?"
    assert made(Vqa(prompt="{question}")).prefix == "Which {choices}?"
    with pytest.raises(ValueError, match="no place for {question}"):
        load_task({"name": "vqa", "prompt": "answer en question"})
    with pytest.raises(ValueError, match="target='last'"):
        load_task({"name": "vqa", "target": "last"})


def test_choices_may_have_letters():
    task = MultipleChoice(letters=True, separator=" ", prompt="{question} {choices}")
    example = made(task)
    assert example.prefix == "Which {choices}? (a) milk (b) stone (c) air"
    assert (example.suffix, example.references) == ("(b)", ("(b)",))
    read = {"(b) stone": "(b)", "B": "(b)", "b) stone": "(b)", "c. air": "(c)", " Stone. ": "(b)", "a dog": "a dog"}
    assert {text: task.prediction(text, example) for text in read} == read


def test_answers_come_as_often_as_people_gave_them():
    counts = Counter(made(Vqa(), seed=seed).suffix for seed in range(3000))
    assert set(counts) == {"Red", "wine red"}
    assert counts["Red"] / 3000 == pytest.approx(6 / 9, abs=0.03)
    assert {made(Vqa(target="first"), seed=seed).suffix for seed in range(20)} == {"Red"}


def test_every_answer_is_a_reference():
    example = made(Vqa())
    assert list(example.references) == RECORD["answers"]
    assert Vqa().reference(example) == {"answers": RECORD["answers"], "type": "other"}
    bare = {key: value for key, value in RECORD.items() if key != "question_type"}
    assert Vqa().reference(made(Vqa(), bare)) == RECORD["answers"]


def test_answers_are_lower_cased_where_asked():
    example = made(Vqa(lower=True))
    assert set(example.references) == {"red", "wine red ", ""}
    assert {made(Vqa(lower=True), seed=seed).suffix for seed in range(50)} == {"red", "wine red"}


def test_a_question_without_an_answer_is_passed_over():
    assert made(Vqa(), RECORD | {"answers": ["", " "]}) is None


def test_choices_stand_in_the_prompt_as_the_authors_have_them():
    example = made(MultipleChoice())
    assert example.prefix == "answer en  Which {choices}? choose from: milk\tstone\tair"
    assert (example.suffix, example.references) == ("stone", ("stone",))
    other = made(MultipleChoice(prompt="{choices}: {question}", separator=", "))
    assert other.prefix == "milk, stone, air: Which {choices}?"
    with pytest.raises(ValueError, match="no place for {choices}"):
        MultipleChoice(prompt="answer en {question}")


def test_scienceqa_is_asked_in_four_lines():
    example = made(ScienceQa(), CHOSEN | {"training": False})
    assert example.prefix == "Question: Which {choices}?\nContext: Look.\nOptions: (A) milk (B) stone (C) air\nAnswer:"
    assert (example.suffix, example.references) == ("The answer is B.", ("The answer is B.",))
    assert "\nContext: N/A\n" in made(ScienceQa(), CHOSEN | {"hint": ""}).prefix
    assert made(ScienceQa(), CHOSEN | {"choices": ["x"] * 27}) is None


def test_options_are_shuffled_in_training_alone_and_the_letter_follows():
    orders = Counter()
    for seed in range(600):
        example = made(ScienceQa(), seed=seed)
        options = example.prefix.split("\n")[2].removeprefix("Options: ")
        assert f"({example.suffix[-2]}) stone" in options
        orders[options] += 1
    assert len(orders) == 6
    assert min(orders.values()) > 60
    for task, record in ((ScienceQa(), CHOSEN | {"training": False}), (ScienceQa(shuffle=False), CHOSEN)):
        assert {made(task, record, seed).suffix for seed in range(20)} == {"The answer is B."}


@pytest.mark.parametrize(
    ("spec", "record", "answer", "metrics"),
    [
        ({"name": "vqa", "metric": "vqav2"}, RECORD, "wine red", {"accuracy": 0.9, "accuracy_other": 0.9}),
        ({"name": "vqa"}, RECORD, "red", {"accuracy": 0.0}),
        ({"name": "vqa"}, RECORD | {"answers": ["red"] * 2 + ["blue"]}, " red\n", {"accuracy": 2 / 3}),
        ({"name": "vqa", "metric": "anls", "metric_key": "anls"}, RECORD, "redd", {"anls": 0.75}),
        (
            {"name": "vqa", "metric": "relaxed_accuracy", "metric_key": "relaxed_accuracy"},
            RECORD | {"answers": ["100"], "question_type": "human"},
            "104",
            {"relaxed_accuracy": 1.0, "relaxed_accuracy_human": 1.0},
        ),
        (
            {"name": "vqa", "metric": "tallyqa"},
            RECORD | {"answers": ["3"], "question_type": "simple"},
            "three",
            {"accuracy": 1.0, "accuracy_simple": 1.0},
        ),
        (
            {"name": "vqa", "metric": "pope"},
            RECORD | {"answers": ["no"], "question_type": "popular"},
            "No",
            {"accuracy": 1.0, "accuracy_popular": 1.0, "yes_share": 0.0},
        ),
        (
            {"name": "vqa", "metric": "rsvqa", "lower": True},
            RECORD | {"answers": ["Rural"], "question_type": "rural_urban"},
            "rural",
            {"accuracy": 1.0, "accuracy_rural_urban": 1.0},
        ),
        ({"name": "multiple_choice"}, CHOSEN, "stone", {"exact_match": 1.0}),
        ({"name": "multiple_choice"}, CHOSEN, "milk", {"exact_match": 0.0}),
        (
            {"name": "science_qa"},
            CHOSEN | {"training": False, "question_type": "natural science"},
            "The answer is B. Because",
            {"accuracy": 1.0, "accuracy_natural_science": 1.0},
        ),
    ],
)
def test_metrics_take_the_references_of_the_tasks(spec, record, answer, metrics):
    task = load_task(spec)
    example = made(task, record)
    values = {"predictions": [task.prediction(answer, example)], "references": [task.reference(example)]}
    result: Any = load_metric(task.metric).compute(**values)
    assert task.metric_key in result
    assert {key: result[key] for key in metrics} == pytest.approx(metrics)


class Records:
    """One record, again and again."""

    name = "records"

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> dict[str, Any]:
        return CHOSEN | {"id": f"a:{index}"}


def test_choices_are_the_same_whenever_an_example_is_read():
    first, second = (TaskDataset(Records(), ScienceQa(), seed=3) for _ in range(2))
    assert [first[i].suffix for i in range(40)] == [second[i].suffix for i in range(40)]
    assert [first[i].suffix for i in range(40)] != [first[1, i].suffix for i in range(40)]
