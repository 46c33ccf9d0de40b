"""Tokens of the prompts and targets of custom data, held against the limits of training and scoring."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from openpali.data.custom.dataset import CustomDataset
from openpali.data.custom.rows import REGION_KINDS, Row, texts
from openpali.data.records import BadRecord
from openpali.data.tasks.custom import PROMPTS
from openpali.recipes.custom_data.record_checks import Finding

# tokens that are generated at most where the data's longest target says how many; some 550 boxes
LONGEST = 4096
# tokens of a prompt that names every class, at most
PROMPT_TOKENS = 512
_BOX, _MASK, _SEPARATORS, _ENDS = "<loc0000>" * 4, "<seg000>" * 16, 3, 2


@dataclass(frozen=True)
class TextLimits:
    """Tokens of texts, and what counts them.

    Attributes:
        tokenizer: of the model.
        max_length: of a prompt; all when None.
        suffix_max_length: of a target in training, its end token included; all when None.
    """

    tokenizer: Any
    max_length: int | None = None
    suffix_max_length: int | None = None


class TextLengths:
    """Counts tokens; the same text is read once."""

    def __init__(self, found: CustomDataset, tokenizer: Any) -> None:
        """Count nothing yet."""
        self.found, self.tokenizer = found, tokenizer
        self.regions, self.outlines = found.spec.kind in REGION_KINDS, found.spec.kind == "segment"
        self._known: dict[str, int] = {}

    def of(self, text: str) -> int:
        """Tokens of a text."""
        if text not in self._known:
            self._known[text] = len(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return self._known[text]

    def target_at_most(self, row: Row) -> int:
        """Tokens of a good row's longest target, or a few more."""
        if not self.regions:
            return max(map(self.of, texts(row.answers)), default=0)
        around = self.of(_BOX) + self.outlines * self.of(_MASK) + _SEPARATORS
        return sum(self.of(f" {name}") + around for name in self.names(row))

    def target(self, row: Row) -> int:
        """Tokens of a good row's longest target."""
        if not self.regions:
            return self.target_at_most(row)
        return self.of(" ; ".join(f"{_BOX}{_MASK * self.outlines} {name}" for name in self.names(row)))

    def names(self, row: Row) -> list[str]:
        """Classes of the objects that a target holds."""
        pairs = zip(row.objects, self.found.labels(row), strict=True)
        return [name for item, name in pairs if not item.crowd]


def answer_tokens(found: CustomDataset, tokenizer: Any) -> int:
    """Tokens of the longest answer with a fifth to spare, so that none is cut."""
    lengths = TextLengths(found, tokenizer)
    longest = max(map(lengths.target_at_most, chain(*found.good.values())), default=0)
    return min(LONGEST, math.ceil(1.2 * longest) + 4)


def prompt_room(max_length: int | None) -> int:
    """Tokens that the names of all classes may have."""
    return min(PROMPT_TOKENS, max_length or PROMPT_TOKENS)


def all_classes_fit(names: Sequence[str], tokenizer: Any, max_length: int | None) -> bool:
    """Whether a prompt may name all classes."""
    tokens = len(tokenizer(" ; ".join(names), add_special_tokens=False)["input_ids"])
    return tokens <= prompt_room(max_length)


def chosen(found: CustomDataset, task: Mapping[str, Any], limits: TextLimits) -> dict[str, str]:
    """What was chosen of answers and prompts, and by what, to be said before the run."""
    lengths, kind = TextLengths(found, limits.tokenizer), found.spec.kind
    longest = max(chain(*found.good.values()), key=lengths.target_at_most, default=None)
    said = {}
    if longest is not None:
        tokens = lengths.target(longest)
        said["answers"] = f"up to {task['max_new_tokens']} tokens in scoring; the longest target has {tokens}"
    names = found.classes
    if kind in REGION_KINDS and task.get("classes"):
        said["prompts"] = f"name {len(task['classes'])} of {len(names)} classes, also on images without any"
    elif kind in REGION_KINDS:
        said["prompts"] = (
            f"ask for one class that is on the image: the names of all {len(names)} have"
            f" {lengths.of(' ; '.join(names))} tokens, more than {prompt_room(limits.max_length)}. What is not there"
            f' is not learnt so; --prompt "{kind} a ; b" names some on every image'
        )
    return said


def cut_texts(found: CustomDataset, task: Mapping[str, Any], limits: TextLimits) -> Iterator[Finding]:
    """Prompts and targets that are longer than what a run takes of them."""
    try:
        parts = found.splits()
    except BadRecord:
        return
    lengths, new = TextLengths(found, limits.tokenizer), task["max_new_tokens"]

    def ended(row: Row) -> int:
        return lengths.target(row) + 1

    checks: list[tuple[str, str, int | None, Callable[[Row], int], str]] = [
        ("train", "--suffix_max_length", limits.suffix_max_length, ended, "targets"),
        ("validation", "--task.max_new_tokens", new, lengths.target, "targets"),
        ("test", "--task.max_new_tokens", new, lengths.target, "targets"),
    ]
    checks += [
        (part, "--max_length", limits.max_length, lambda row: prompt_tokens(row, task, lengths), "prompts")
        for part in parts
    ]
    for part, option, limit, count, what in checks:
        if limit is None or part == "test" and parts["test"] is parts["validation"]:
            continue
        numbers = [(count(row), row) for row in parts[part] if what == "prompts" or near(row, lengths, limit)]
        long = [(number, row) for number, row in numbers if number > limit]
        if long:
            yield too_long(part, option, limit, what, long, len(parts[part]), lengths)


def near(row: Row, lengths: TextLengths, limit: int) -> bool:
    """Whether a target may be longer than the limit; most need not be counted."""
    return lengths.target_at_most(row) + 1 > limit


def prompt_tokens(row: Row, task: Mapping[str, Any], lengths: TextLengths) -> int:
    """Tokens of a row's prompt, with what ends it."""
    kind = lengths.found.spec.kind
    if lengths.regions:
        prompt = task.get("prompt") or f"{kind} " + " ; ".join(task.get("classes", ()))
        return lengths.of(prompt) + _ENDS
    question = next(iter(texts(row.question)), "")
    prompt = (task.get("prompt") or PROMPTS[kind]).replace("{question}", question)
    return lengths.of(prompt.replace("{language}", task.get("language", "en"))) + _ENDS


def too_long(
    part: str, option: str, limit: int, what: str, long: list[tuple[int, Row]], total: int, lengths: TextLengths
) -> Finding:
    """What is cut, of what length the longest is, and what to raise."""
    most, row = max(long, key=lambda pair: pair[0])
    text = (
        f"{row.file}:{row.record}: {most} tokens; {len(long)} of {total} {what} of the {part} part have more than"
        f" {option[2:]}={limit} and are cut"
    )
    if option == "--task.max_new_tokens" and lengths.regions:
        rows = lengths.found.splits()[part]
        reachable = sum(min(lengths.target_at_most(one), limit) for one in rows)
        text += f", so that recall cannot pass {reachable / sum(map(lengths.target_at_most, rows)):.0%}"
    return Finding("warning", "length", f"{text}. Give {option} {most}.", len(long))
