"""Lengths of the prompts and targets of custom data in tokens, compared with the limits of training and scoring."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from openpali.data.custom.dataset import CustomDataset
from openpali.data.custom.rows import REGION_KINDS, Row, texts
from openpali.data.tasks.custom import PROMPTS
from openpali.recipes.custom_data.finding import Finding, place
from openpali.recipes.custom_data.split_checks import distinct_splits

# upper limit of the generated tokens that follow from the longest target; about 550 boxes
LONGEST = 4096
# upper limit of the tokens of a prompt that names every class
PROMPT_TOKENS = 512
_BOX, _MASK, _SEPARATORS, _ENDS = "<loc0000>" * 4, "<seg000>" * 16, 3, 2


@dataclass(frozen=True)
class TextLimits:
    """Limits of texts in tokens, and the tokenizer that counts them.

    Attributes:
        tokenizer: of the model.
        max_length: tokens of a prompt; unlimited when None.
        suffix_max_length: tokens of a target in training, with its end token; unlimited when None.
    """

    tokenizer: Any
    max_length: int | None = None
    suffix_max_length: int | None = None


class TextLengths:
    """Counts the tokens of texts, each text once."""

    def __init__(self, data: CustomDataset, tokenizer: Any) -> None:
        self.data, self.tokenizer = data, tokenizer
        self.regions, self.masks = data.spec.kind in REGION_KINDS, data.spec.kind == "segment"
        self._counts: dict[str, int] = {}

    def of(self, text: str) -> int:
        """Tokens of a text."""
        if text not in self._counts:
            self._counts[text] = len(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return self._counts[text]

    def target_at_most(self, row: Row) -> int:
        """Upper bound of the tokens of a good row's longest target, quick to compute."""
        if not self.regions:
            return max(map(self.of, texts(row.answers)), default=0)
        around = self.of(_BOX) + self.masks * self.of(_MASK) + _SEPARATORS
        return sum(self.of(f" {name}") + around for name in self.names(row))

    def target(self, row: Row) -> int:
        """Tokens of a good row's longest target."""
        if not self.regions:
            return self.target_at_most(row)
        return self.of(" ; ".join(f"{_BOX}{_MASK * self.masks} {name}" for name in self.names(row)))

    def names(self, row: Row) -> list[str]:
        """Classes of the objects in a row's target."""
        pairs = zip(row.objects, self.data.labels(row), strict=True)
        return [name for item, name in pairs if not item.crowd]


def answer_tokens(data: CustomDataset, tokenizer: Any) -> int:
    """Tokens to generate for an answer: those of the longest target and a fifth more, so that none is cut."""
    lengths = TextLengths(data, tokenizer)
    longest = max(map(lengths.target_at_most, chain(*data.good.values())), default=0)
    return min(LONGEST, math.ceil(1.2 * longest) + 4)


def class_token_limit(max_length: int | None) -> int:
    """Upper limit of the tokens of all class names in a prompt."""
    return min(PROMPT_TOKENS, max_length or PROMPT_TOKENS)


def all_classes_fit(names: Sequence[str], tokenizer: Any, max_length: int | None) -> bool:
    """Whether a prompt may name all classes."""
    tokens = len(tokenizer(" ; ".join(names), add_special_tokens=False)["input_ids"])
    return tokens <= class_token_limit(max_length)


def text_settings(data: CustomDataset, task: Mapping[str, Any], limits: TextLimits) -> dict[str, str]:
    """Sentences on the length of answers and on the classes in prompts that follow from the data."""
    lengths, kind = TextLengths(data, limits.tokenizer), data.spec.kind
    longest = max(chain(*data.good.values()), key=lengths.target_at_most, default=None)
    settings = {}
    if longest is not None:
        tokens = lengths.target(longest)
        settings["answers"] = f"up to {task['max_new_tokens']} tokens in scoring; the longest target has {tokens}"
    names = data.classes
    if kind in REGION_KINDS and task.get("classes"):
        settings["prompts"] = f"name {len(task['classes'])} of {len(names)} classes, also on images without any"
    elif kind in REGION_KINDS:
        settings["prompts"] = (
            f"ask for one class that is on the image: the names of all {len(names)} have"
            f" {lengths.of(' ; '.join(names))} tokens, more than {class_token_limit(limits.max_length)}. The model"
            f' does not learn which classes are absent; --prompt "{kind} a ; b" names some on every image'
        )
    return settings


def cut_texts(data: CustomDataset, task: Mapping[str, Any], limits: TextLimits) -> Iterator[Finding]:
    """Prompts and targets that are longer than the limits of a run."""
    splits = distinct_splits(data)
    lengths, new = TextLengths(data, limits.tokenizer), task["max_new_tokens"]

    def target_with_end(row: Row) -> int:
        return lengths.target(row) + 1

    checks: list[tuple[str, str, int | None, Callable[[Row], int], str]] = [
        ("train", "--suffix_max_length", limits.suffix_max_length, target_with_end, "targets"),
        ("validation", "--task.max_new_tokens", new, lengths.target, "targets"),
        ("test", "--task.max_new_tokens", new, lengths.target, "targets"),
    ]
    checks += [
        (split, "--max_length", limits.max_length, lambda row: prompt_tokens(row, task, lengths), "prompts")
        for split in splits
    ]
    for split, option, limit, count, what in checks:
        if limit is None or split not in splits:
            continue
        rows = splits[split]
        numbers = [(count(row), row) for row in rows if what == "prompts" or may_exceed(row, lengths, limit)]
        long = [(number, row) for number, row in numbers if number > limit]
        if long:
            yield too_long(split, option, limit, what, long, rows, lengths)


def may_exceed(row: Row, lengths: TextLengths, limit: int) -> bool:
    """Whether a target may be longer than the limit; most targets need no exact count."""
    return lengths.target_at_most(row) + 1 > limit


def prompt_tokens(row: Row, task: Mapping[str, Any], lengths: TextLengths) -> int:
    """Tokens of a row's prompt, with its special tokens."""
    kind = lengths.data.spec.kind
    if lengths.regions:
        prompt = task.get("prompt") or f"{kind} " + " ; ".join(task.get("classes", ()))
        return lengths.of(prompt) + _ENDS
    question = next(iter(texts(row.question)), "")
    prompt = (task.get("prompt") or PROMPTS[kind]).replace("{question}", question)
    return lengths.of(prompt.replace("{language}", task.get("language", "en"))) + _ENDS


def too_long(
    split: str,
    option: str,
    limit: int,
    what: str,
    long: list[tuple[int, Row]],
    rows: list[Row],
    lengths: TextLengths,
) -> Finding:
    """The number of texts of a split that are cut, the longest one, and the option to raise."""
    most, row = max(long, key=lambda pair: pair[0])
    text = (
        f"{place(row)}: {most} tokens; {len(long)} of {len(rows)} {what} of the {split} split have more than"
        f" {option[2:]}={limit} and are cut"
    )
    if option == "--task.max_new_tokens" and lengths.regions:
        reachable = sum(min(lengths.target_at_most(one), limit) for one in rows)
        text += f", so that recall cannot pass {reachable / sum(map(lengths.target_at_most, rows)):.0%}"
    return Finding("warning", "length", f"{text}. Give {option} {most}.", len(long))
