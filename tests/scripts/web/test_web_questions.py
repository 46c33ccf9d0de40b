"""Pairs from captions by rules, and by a generator and a checker that have learnt theirs by heart."""

import pickle

import pytest
from PIL import Image
from tiny_seq2seq import taught_t5

from openpali.modeling.user_errors import CheckpointError
from openpali.scripts.web.running.samples import WebSample, merged
from openpali.scripts.web.steps.questions import Questions

CAPTION = "a red car in Paris"
ASKED = {"red": "which colour is the car?", "car": "what is red?", "red car": "what is in Paris?"}
ASKED |= {"Paris": "where is the dog?"}
ANSWERED = {"which colour is the car?": "red", "what is red?": "a car", "what is in Paris?": "the car"}
ANSWERED |= {"where is the dog?": "red", "is there a car?": "yes"}


def sample(number, **record):
    return WebSample("a", number, str(number), Image.new("RGB", (8, 8)), record)


BATCH = [
    sample(0, captions={"en": ["two dogs on a sofa", "a red car"]}),
    sample(1, captions={"de": "zwei hunde"}),
    sample(2, objects=[]),
    sample(3, captions={"en": "a red car"}, questions=[{"question": "why?", "answer": "so", "language": "en"}]),
]


def pair(question, answer):
    return {"question": question, "answer": answer, "language": "en"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    asks = {f"answer: {answer} context: {CAPTION}": question for answer, question in ASKED.items()}
    asks[f"answer: yes context: {CAPTION}"] = "is there a car?"
    answers = {f"question: {question} context: {CAPTION}": answer for question, answer in ANSWERED.items()}
    return taught_t5(folder / "asks", asks), taught_t5(folder / "answers", answers)


def test_rules_read_english_captions_and_a_record_keeps_its_own_questions():
    first, *others = pickle.loads(pickle.dumps(Questions()))(BATCH)
    colour = [pair("what is this?", "red car"), pair("which colour is the car?", "red")]
    assert first.labels == {"questions": [pair("how many dogs are there?", "2"), *colour]}
    assert first.models["questions"].startswith("openpali ")
    assert not first.drop
    assert [(one.labels, one.models) for one in others] == [({}, {})] * 3
    assert len(Questions(most=1)(BATCH)[0].labels["questions"]) == 1
    record = merged(BATCH[0].record, first)
    assert record["label_models"] == first.models


def test_a_generator_asks_for_each_part_of_a_caption(models):
    batch = [*BATCH[1:], sample(4, captions={"en": CAPTION})]
    verdict = Questions(model=models[0])(batch)[-1]
    assert verdict.labels["questions"] == [
        pair(ASKED[answer], answer) for answer in ("red car", "car", "red", "Paris")
    ]
    assert verdict.models == {"questions": models[0]}
    assert verdict.values == {"asked": 4, "questions": 4}


def test_pairs_stay_whose_answer_a_second_model_gives_too(models):
    step = Questions(model=models[0], answer_model=models[1], further_answers=[True])
    (verdict,) = step([sample(0, captions={"en": CAPTION})])
    # "the car" agrees with "red car" (F1 of 2/3), "red" with "Paris" does not; YAML reads yes as true
    kept = ("red car", "car", "red")
    assert verdict.labels["questions"] == [*(pair(ASKED[one], one) for one in kept), pair("is there a car?", "yes")]
    assert verdict.models == {"questions": f"{models[0]}, checked by {models[1]}"}
    assert verdict.values == {"asked": 5, "questions": 4}
    strict = Questions(model=models[0], answer_model=models[1], least_f1=0.9)
    (verdict,) = strict([sample(0, captions={"en": CAPTION})])
    assert [one["answer"] for one in verdict.labels["questions"]] == ["car", "red"]
    # the rules' pairs can be checked as well
    (verdict,) = Questions(answer_model=models[1])([sample(0, captions={"en": CAPTION})])
    assert verdict.labels["questions"] == [pair("which colour is the car?", "red")]


def test_a_question_that_does_not_end_is_left_out(models):
    (verdict,) = Questions(model=models[0], max_new_tokens=4)([sample(0, captions={"en": CAPTION})])
    # three words and the end; all others are longer
    assert verdict.labels["questions"] == [pair("what is red?", "car")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": "answer: {answer}"}, "has no place for {context}"),
        ({"answer_prompt": "{context}"}, "has no place for {question}"),
        ({"least_f1": 2}, r"least_f1 is in \[0, 1\]"),
        ({"further_answers": ["yes"]}, "further_answers are for a model"),
        ({"dtype": "int4"}, "dtype is one of"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Questions(**options)


def test_a_missing_model_is_named():
    with pytest.raises(CheckpointError, match="no folder outputs/nowhere"):
        Questions(model="outputs/nowhere")([sample(0, captions={"en": CAPTION})])
