import json
import random
from pathlib import Path

import pytest

from openpali.eval.scoring.answer_text import anls, edit_distance, to_digits, vqav2_normalise

CASES = json.loads((Path(__file__).parents[2] / "fixtures" / "metric_cases.json").read_text())


@pytest.mark.parametrize(("text", "expected"), CASES["vqav2_postprocess"].items())
def test_normalisation_equals_the_reference(text, expected):
    assert vqav2_normalise(text) == expected


def test_contractions_of_the_official_list():
    """A few of every kind; words that the list does not have stay as they are."""
    pairs = {"couldn'tve": "couldn't've", "couldnt've": "couldn't've", "couldntve": "couldntve", "twas": "'twas"}
    pairs |= {"somebody'd": "somebodyd", "somebodyd": "somebodyd", "'ow'sat": "'ow's'at", "lets": "lets", "ive": "ive"}
    assert {text: vqav2_normalise(text) for text in pairs} == pairs
    assert vqav2_normalise("eleven twenty ten") == "eleven twenty 10"


def test_odd_texts_are_normalised():
    assert vqav2_normalise("") == vqav2_normalise(" \n") == vqav2_normalise("?") == vqav2_normalise("The a") == ""
    assert vqav2_normalise("Été, 猫!") == "été 猫"
    assert vqav2_normalise("an " * 100_000 + "end") == "end"


@pytest.mark.parametrize(("word", "expected"), CASES["number_words"].items())
def test_number_words_equal_the_reference(word, expected):
    assert to_digits(word) == expected


@pytest.mark.parametrize("case", CASES["anls"], ids=lambda case: f"{case['pred']}-{case['target']}")
def test_anls_equals_the_reference(case):
    assert anls(case["pred"], [case["target"]]) == pytest.approx(case["score"], abs=1e-9)


def table_distance(a, b):
    """The textbook's table, row by row."""
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (letter != other))
    return row[-1]


def test_edit_distance_equals_the_table_on_random_texts():
    rng = random.Random(0)
    for _ in range(2000):
        a, b = ("".join(rng.choices("abé猫", k=rng.randrange(12))) for _ in range(2))
        assert edit_distance(a, b) == table_distance(a, b), (a, b)
    a, b = ("".join(rng.choices("ab", k=length)) for length in (300, 250))
    assert edit_distance(a, b) == edit_distance(b, a) == table_distance(a, b)


def test_long_texts_are_compared_in_no_time():
    word = "x" * 20_000
    assert edit_distance(word, word[:10_000] + "y" + word[10_000:]) == 1
    assert anls(word, [word[:-1] + "y"]) == pytest.approx(1 - 1 / 20_000)
    assert anls("x" * 10_000_000, ["x"]) == 0.0
