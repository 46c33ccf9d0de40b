import re

import pytest

from openpali.data.example import Box
from openpali.data.sources.builtin.emoji import EmojiScenes
from openpali.data.sources.builtin.phrases import POSITIONS
from openpali.data.tasks.parts.expressions import PLACES, expressions, is_at


def thing(name, x, y, colour=None):
    return {"names": {"en": name}, "box": Box(x - 0.05, y - 0.05, x + 0.05, y + 0.05), "colour": colour}


def said(objects, index=0, crowds=()):
    return expressions(objects[index], objects, crowds)


def test_one_of_a_kind_needs_its_name_alone():
    assert said([thing("dog", 0.5, 0.5)]) == ["dog", "the dog in the center"]
    assert said([thing("dog", 0.45, 0.3)]) == ["dog", "the dog at the top"]
    assert said([thing("dog", 0.2, 0.2, "brown"), thing("cat", 0.8, 0.2, "black")]) == [
        "dog",
        "the brown dog",
        "the brown thing",
        "the dog at the top left",
        "the dog at the top",
        "the dog on the left",
    ]


def test_two_of_a_kind_are_distinguished_by_place():
    dogs = [thing("dog", 0.3, 0.5), thing("dog", 0.7, 0.5), thing("cat", 0.1, 0.1)]
    assert said(dogs) == ["the dog on the left"]
    assert said(dogs, 1) == ["the dog on the right"]
    assert "cat" in said(dogs, 2)
    near = [thing("dog", 0.3, 0.5), thing("dog", 0.4, 0.5)]
    assert said(near) == []
    assert said([thing("dog", 0.1, 0.5), thing("dog", 0.25, 0.9)]) == []
    assert said([thing("dog", 0.1, 0.5), thing("dog", 0.25, 0.9)], 1) == ["the dog at the bottom"]


def test_a_colour_that_others_may_have_tells_nothing():
    red, unclear = thing("apple", 0.2, 0.5, "red"), thing("car", 0.8, 0.5)
    assert "the red apple" in said([red, unclear])
    assert "the red thing" not in said([red, unclear])
    assert "the red apple" not in said([red, thing("apple", 0.8, 0.5, "red")])
    assert "the red apple" not in said([red, thing("apple", 0.8, 0.5)])
    assert "the red apple" in said([red, thing("apple", 0.8, 0.5, "green")])


def test_crowds_make_names_ambiguous():
    assert said([thing("dog", 0.2, 0.2)], crowds=["dog"]) == []
    assert said([thing("dog", 0.2, 0.2)], crowds=["cat"]) != []


@pytest.mark.parametrize("place", PLACES)
def test_what_is_somewhere_is_nowhere_else(place):
    assert set(PLACES) == set(POSITIONS)
    middle = {"left": 0.1, "top": 0.1, "right": 0.9, "bottom": 0.9}
    words = place.split()
    x = next((middle[word] for word in words if word in ("left", "right")), 0.5)
    y = next((middle[word] for word in words if word in ("top", "bottom")), 0.5)
    box = thing("dog", x, y)["box"]
    true = {other for other in PLACES if is_at(other, box, [])}
    assert place in true
    assert true == ({place, *words} if len(words) == 2 else {place})
    assert not is_at(place, box, [box])


def fits(expression, item):
    """Whether an expression could be said of an object, read anew and as generously as a person would."""
    match = re.fullmatch(r"(?:the )?(.+?)(?: (?:at|on|in) the (.+))?", expression)
    name, place = match[1], match[2]
    x, y = (item["box"].x0 + item["box"].x1) / 2, (item["box"].y0 + item["box"].y1) / 2
    colour, _, noun = name.partition(" ")
    # a thing without a clear colour might be called by any
    coloured = item["colour"] in (colour, None) and noun in (item["concept"], "thing")
    if item["concept"] != name and not coloured:
        return False
    if place == "center":
        return abs(x - 0.5) < 0.25 and abs(y - 0.5) < 0.25
    halves = {"left": x < 0.5, "right": x > 0.5, "top": y < 0.5, "bottom": y > 0.5}
    return place is None or all(halves[word] for word in place.split())


def test_expressions_on_the_built_in_images_mean_one_thing(drawings):
    source = EmojiScenes(objects=(2, 5), length=200, size=96, cache_dir=drawings)
    total, kinds = 0, set()
    for index in range(200):
        objects = source[index]["objects"]
        for item in objects:
            for expression in expressions(item, objects):
                assert fits(expression, item), expression
                rivals = [other for other in objects if other is not item and fits(expression, other)]
                # of two that fit, a direction means the one that is clearly farther that way
                if rivals:
                    way = expression.rsplit(" the ", 1)[-1]
                    assert way in ("left", "right", "top", "bottom"), expression
                    axis = 0 if way in ("left", "right") else 1
                    sign = -1 if way in ("left", "top") else 1
                    own, *others = (
                        sign * ((one["box"].x0 + one["box"].x1, one["box"].y0 + one["box"].y1)[axis]) / 2
                        for one in (item, *rivals)
                    )
                    assert own - max(others) > 0.19, expression
                total += 1
                kinds.add(expression.replace(item["concept"], "X").replace(item["colour"] or "-", "C"))
    assert total > 1000
    assert {"X", "the C X", "the C thing"} | {f"the X {end}" for end in PLACES.values()} <= kinds
