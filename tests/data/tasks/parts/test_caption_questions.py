import pytest

from openpali.data.tasks.parts.caption_questions import (
    KINDS,
    answer_candidates,
    caption_questions,
    caption_things,
)


def asked(caption):
    return {found.question: found.answer for found in caption_questions(caption)}


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("two dogs and a cat on a red sofa", {"how many dogs are there?": "2", "which colour is the sofa?": "red"}),
        ("2 people on a motorcycle", {"how many people are there?": "2"}),
        ("Three bus stops.", {"how many bus stops are there?": "3"}),
        ("two sports cars racing", {"how many sports cars are there?": "2"}),
        ("an orange cat", {"what is this?": "orange cat", "which colour is the cat?": "orange"}),
        ("A city bus", {"what is this?": "city bus"}),
        ("An image of a city bus", {"what is this?": "city bus"}),
        ("A room with yellow and blue walls", {"which colour are the walls?": "yellow and blue"}),
        ("A red fire hydrant on the side of a road.", {"which colour is the fire hydrant?": "red"}),
        (
            "A man riding a wave on top of a surfboard.",
            {
                "what is the man doing?": "riding a wave",
                "what is the man riding?": "wave",
                "where is the man?": "on top of a surfboard",
            },
        ),
        ("The cat is sleeping", {"what is the cat doing?": "sleeping"}),
        ("a boy playing tennis", {"what is the boy doing?": "playing tennis"}),
        ("a wedding cake on a table", {"where is the wedding cake?": "on a table"}),
        ("Red Bull can on a white desk", {"which colour is the desk?": "white"}),
    ],
)
def test_what_a_caption_answers(caption, expected):
    assert asked(caption) == expected


@pytest.mark.parametrize(
    "caption",
    [
        "",
        "  . ",
        "a red",
        "two of them",
        "5 o'clock shadow",
        "a five year old boy",
        "a boy of five years",
        "more than two dogs",
        "two hundred dogs",
        "route 66 signs",
        "two dogs and two brown dogs",
        "a red car and a blue car",
        "the orange sits on the table",
        "a woman in black stands near the wall",
        "a man dressed in red sits",
        "a red, white and blue flag of paper",
        "a red double decker bus",
        "a man in a suit",
        "a bowl of soup on a table",
        "a group of people",
        "a toilet without a red lid",
        "a black cat sits on a wooden table",
        "ein hund auf einem roten sofa",
        "两个狗",
        "😀 !!",
    ],
)
def test_what_leaves_a_doubt_is_not_asked(caption):
    found = asked(caption)
    assert not any(question.startswith(("how many", "which colour", "what")) for question in found), found
    assert "where is the woman?" in found or not found


def test_every_kind_is_named():
    captions = ("a dog", "two dogs", "a man on a red sofa", "a man eating a pizza")
    kinds = {found.kind for caption in captions for found in caption_questions(caption)}
    assert kinds == set(KINDS)


@pytest.mark.parametrize(
    ("caption", "candidates"),
    [
        ("Two dogs chasing a red ball in Paris", ["two", "dogs", "chasing", "red ball", "ball", "red", "Paris"]),
        ("1967 Ford Mustang fastback - front view", ["1967", "Ford Mustang fastback", "fastback"]),
        ("a group of 12 people", ["12", "people"]),
        ("...", []),
        ("", []),
    ],
)
def test_candidates_for_answers_are_parts_of_the_caption(caption, candidates):
    assert answer_candidates(caption) == candidates


@pytest.mark.parametrize(
    ("caption", "things"),
    [
        ("A man riding a wave on top of a surfboard.", ["man", "wave", "surfboard"]),
        ("a dog chases a ball in the park", ["dog", "ball", "park"]),
        ("a group of people standing around a table with plates", ["person", "table", "plate"]),
        ("three buses parked near two red cars, four boxes and some cherries", ["bus", "car", "box", "cherry"]),
        ("A woman wearing sunglasses is holding scissors", ["woman", "sunglasses", "scissors"]),
        ("cat on sofa and a cat on a small blue sofa", ["cat", "sofa"]),
        ("a photo of a church", ["church"]),
        ("Vintage Ford Mustang 1967 - For Sale", []),
        ("wearing red shoes", ["shoe"]),
        ("", []),
        ("...", []),
    ],
)
def test_the_things_of_a_caption(caption, things):
    assert caption_things(caption) == things
