"""Example images of the page, drawn from the built-in images where their packages are installed."""

from pathlib import Path
from typing import Any, NamedTuple

from openpali.data.sources.builtin.drawings import CREDITS
from openpali.data.sources.builtin.emoji import EmojiScenes
from openpali.data.sources.builtin.phrases import plural
from openpali.eval.web.prompts import CAPTION, COUNT, DETECT, QUESTION, SEGMENT, TEXT, Button

SIZE = 224  # pixels
TRIED, CLEAR = 20, 0.98
# each with the fewest and most objects of its scenes, and whether words are written on them
EXAMPLES: tuple[tuple[Button, tuple[int, int], bool], ...] = (
    (CAPTION, (2, 2), False),
    (QUESTION, (1, 1), False),
    (COUNT, (2, 2), False),
    (TEXT, (1, 1), True),
    (DETECT, (2, 2), False),
    (SEGMENT, (1, 1), False),
)


class ExampleImage(NamedTuple):
    """An image on disk and a prompt about it."""

    path: str
    prompt: str


def draw_examples(buttons: list[Button], folder: Path) -> tuple[list[ExampleImage], str]:
    """Draw an image of the test split for each button that has one.

    Args:
        buttons: of the page.
        folder: to write into.

    Returns:
        The examples, and the credits that are due with them; none of either where the packages of the extra `demo`
        are missing.
    """
    found = []
    for number, (button, objects, words) in enumerate(EXAMPLES):
        if button not in buttons:
            continue
        try:
            scene = first_clear(EmojiScenes("test", SIZE, objects=objects, words=words), number * TRIED)
        except ImportError:
            return [], ""
        names = [one["names"]["en"] for one in scene["objects"]]
        prompt = button.prompt.format(words=" ; ".join(dict.fromkeys(names)), thing=names[0], things=plural(names[0]))
        path = folder / f"example_{number + 1}.png"
        scene["image"].save(path)
        found.append(ExampleImage(str(path), prompt))
    return found, CREDITS if found else ""


def first_clear(scenes: EmojiScenes, start: int) -> dict[str, Any]:
    """The first scene from a number on in which no object covers another, or of `TRIED` the last."""
    scene = scenes[start]
    for number in range(start, start + TRIED):
        scene = scenes[number]
        if all(one["visible"] > CLEAR for one in scene["objects"]):
            break
    return scene
