"""Base of the tasks that name classes of objects in the prompt and write every object of these: detect, segment."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from openpali.data.masks.objects import Objects, all_things, check_order, choose_things
from openpali.data.tasks.parts.options import set_tuples


@dataclass(frozen=True)
class ThingTask:
    """Options that choose the things of a prompt, and the order of their objects in the target.

    Attributes:
        most_things: maximum of different things in a prompt.
        language: of the things' names.
        things: names that prompts may hold; every name when empty.
        most_boxes: a thing with more objects than this on an image is not in its prompt.
        order: of the objects: `reading`, or `shuffled` anew for each example.
        classes: the things of every prompt, also on images without any, whose target is empty.
        prompt: of every example, in place of the task's word and the names; it needs `classes`.
    """

    most_things: int = 1
    language: str = "en"
    things: tuple[str, ...] = ()
    most_boxes: int | None = None
    order: str = "reading"
    classes: tuple[str, ...] = ()
    prompt: str = ""

    def __post_init__(self) -> None:
        check_order(self.order)
        set_tuples(self, "things", "classes")
        if self.prompt and not self.classes:
            raise ValueError("prompt: name the classes that it asks for in classes")

    def choose(self, objects: Objects, left_out: Sequence[str], rng: random.Random) -> tuple[list[str], Objects]:
        """Names for the prompt and all objects of these names; both empty when there is nothing to ask for."""
        if self.classes:
            return all_things(objects, left_out, self.language, self.classes)
        options = (self.language, self.most_things, self.things, self.most_boxes, self.order)
        return choose_things(objects, left_out, rng, *options)
