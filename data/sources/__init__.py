"""Sources: where records come from. A source has `__len__`, `__getitem__` and `name`, and raises `BadRecord`."""

import importlib
import inspect
import random
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, Protocol, runtime_checkable

from openpali.data.files.renamed import current_spec
from openpali.data.images.augment import Augment
from openpali.data.records import BadRecord

SOURCES = {
    "activitynet_cap": "openpali.data.sources.public.clips:ActivityNetCaptions",
    "activitynet_qa": "openpali.data.sources.public.clip_questions:ActivityNetQuestions",
    "ai2d": "openpali.data.sources.public.choices:Ai2d",
    "aokvqa": "openpali.data.sources.public.choices:AOkVqa",
    "aokvqa_direct": "openpali.data.sources.public.choices:AOkVqaDirect",
    "chartqa": "openpali.data.sources.public.documents:ChartQa",
    "coco": "openpali.data.sources.coco:CocoInstances",
    "coco35l": "openpali.data.sources.public.multilingual:Coco35L",
    "cococap": "openpali.data.sources.public.captions:KarpathyCoco",
    "countbenchqa": "openpali.data.sources.public.counting:CountBenchQa",
    "custom": "openpali.data.sources.custom:CustomData",
    "docvqa": "openpali.data.sources.public.documents:DocVqa",
    "emoji": "openpali.data.sources.builtin.emoji:EmojiScenes",
    "emoji36": "openpali.data.sources.builtin.emoji36:Emoji36",
    "fairface": "openpali.data.sources.public.evaluation.people:FairFace",
    "gqa": "openpali.data.sources.public.gqa:Gqa",
    "infovqa": "openpali.data.sources.public.documents:InfographicVqa",
    "jsonl": "openpali.data.sources.jsonl:JsonlSource",
    "labelled": "openpali.data.sources.public.evaluation.people:LabelledTable",
    "miap": "openpali.data.sources.public.evaluation.people:Miap",
    "mmvp": "openpali.data.sources.public.evaluation.pairs:Mmvp",
    "msrvtt_cap": "openpali.data.sources.public.clips:MsrVtt",
    "msrvtt_qa": "openpali.data.sources.public.clip_questions:MsrVttQuestions",
    "msvd_qa": "openpali.data.sources.public.clip_questions:MsvdQuestions",
    "nlvr2": "openpali.data.sources.public.nlvr2:Nlvr2",
    "nocaps": "openpali.data.sources.public.captions:NoCaps",
    "objaverse_multiview": "openpali.data.sources.public.evaluation.views:ObjaverseMultiview",
    "ocrvqa": "openpali.data.sources.public.documents:OcrVqa",
    "okvqa": "openpali.data.sources.public.vqa:OkVqa",
    "pope": "openpali.data.sources.public.counting:Pope",
    "refcoco": "openpali.data.sources.public.refcoco:RefCoco",
    "refer": "openpali.data.sources.refer:ReferringExpressions",
    "rsvqa_hr": "openpali.data.sources.public.rsvqa:RsVqaHigh",
    "rsvqa_lr": "openpali.data.sources.public.rsvqa:RsVqaLow",
    "scicap": "openpali.data.sources.public.scicap:SciCap",
    "science_qa": "openpali.data.sources.public.choices:ScienceQa",
    "screen2words": "openpali.data.sources.public.rico:Screen2Words",
    "stvqa": "openpali.data.sources.public.documents:StVqa",
    "tallyqa": "openpali.data.sources.public.counting:TallyQa",
    "textcaps": "openpali.data.sources.public.captions:TextCaps",
    "textvqa": "openpali.data.sources.public.vqa:TextVqa",
    "vatex_cap": "openpali.data.sources.public.clips:Vatex",
    "video": "openpali.data.sources.video:VideoSource",
    "vizwizvqa": "openpali.data.sources.public.vqa:VizWizVqa",
    "vqav2": "openpali.data.sources.public.vqa:Vqav2",
    "webdataset": "openpali.data.sources.webdataset:WebDataset",
    "widgetcap": "openpali.data.sources.public.rico:WidgetCap",
    "xm3600": "openpali.data.sources.public.multilingual:Crossmodal3600",
}


class Source(Protocol):
    """A sequence of records: dicts with `id`, `image` (PIL RGB) or `images`, and what the task needs."""

    name: str

    def __len__(self) -> int:
        """Number of records."""
        ...

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One record. Raises BadRecord when it cannot be used."""
        ...


@runtime_checkable
class CheckedSource(Source, Protocol):
    """A source that checks its records beforehand, leaves out the bad ones and lists them.

    Attributes:
        bad: the problem of each bad record.
        notes: messages for the user, such as the number of entries left out by design.
    """

    bad: list[BadRecord]

    @property
    def notes(self) -> Sequence[str]: ...  # noqa: D102


@runtime_checkable
class CreditedSource(Source, Protocol):
    """A source whose images need a credit line wherever they are shown."""

    @property
    def credits(self) -> str: ...  # noqa: D102


def credits_of(source: object) -> str:
    """The credit line of a source's images; empty for most."""
    return source.credits if isinstance(source, CreditedSource) else ""


@runtime_checkable
class TextRewritingSource(Source, Protocol):
    """A source that can rewrite captions and positions of a record from its objects."""

    def rewritten(self, record: dict[str, Any]) -> dict[str, Any]:
        """The record with captions, positions and order that match its objects."""
        ...


class Augmented:
    """The records of a source, flipped, cropped or zoomed out.

    `TaskDataset` draws the augmentation with the task's own choices. By index, a record always has the same one.
    """

    def __init__(self, source: Source, augment: Augment) -> None:
        """Augment a source."""
        self.source, self.augment, self.name = source, augment, source.name

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.changed(self.source[index], random.Random(index))

    @property
    def credits(self) -> str:
        """The credit line of the source."""
        return credits_of(self.source)

    def changed(self, record: dict[str, Any], rng: random.Random) -> dict[str, Any]:
        """A record of the source with a random augmentation."""
        if isinstance(self.source, TextRewritingSource):
            return self.source.rewritten(self.augment(record, rng, rewritten=True))
        return self.augment(record, rng)


def load_source(spec: dict[str, Any]) -> Source:
    """The source that a dict describes: `{"name": "emoji", "split": "train"}`, its options beside its name.

    Every source also has the option `augment`, the options of `Augment`.

    Raises:
        ValueError: an unknown name or option; the message gives the nearest known one.
    """
    options = spec.get("augment")
    source = build({key: value for key, value in spec.items() if key != "augment"}, SOURCES, "source")
    return augmented(source, options) if options else source


def augmented(source: Source, options: dict[str, Any]) -> Augmented:
    """A source with the augmentations that a dict describes: `{"flip": 0.5, "crop": [0.7, 1]}`.

    Raises:
        ValueError: an unknown option or an invalid value.
    """
    known = list(inspect.signature(Augment).parameters)
    if not isinstance(options, dict):
        raise ValueError(f"augment is a mapping with some of {', '.join(known)}, not {options!r}")
    for option in options:
        if option not in known:
            raise ValueError(f"augment has no option {option!r}{_nearest(option, known)}")
    return Augmented(source, Augment(**options))


def build(spec: dict[str, Any], table: dict[str, str], kind: str) -> Any:
    """Import `table[spec["name"]]` and call it with the rest of the spec. Raises ValueError on unknown keys."""
    spec = current_spec(spec)
    options = {key: value for key, value in spec.items() if key != "name"}
    if "name" not in spec:
        given = ", ".join(map(str, list(spec)[:8]))
        raise ValueError(f"a {kind} needs a name, one of {', '.join(table)}; there is only {given or 'nothing'}")
    if spec["name"] not in table:
        raise ValueError(f"no {kind} {spec['name']!r}{_nearest(spec['name'], list(table))}")
    module, _, attribute = table[spec["name"]].partition(":")
    factory = getattr(importlib.import_module(module), attribute)
    known = list(inspect.signature(factory).parameters)
    for option in options:
        if option not in known:
            raise ValueError(f"{kind} {spec['name']!r} has no option {option!r}{_nearest(option, known)}")
    try:
        return factory(**options)
    except TypeError as error:
        raise ValueError(f"{kind} {spec['name']!r}: {error}. Its options: {', '.join(known)}.") from error


def several(value: str | Sequence[str]) -> tuple[str, ...]:
    """The tuple of a YAML option that may be one word or a list of them."""
    return (value,) if isinstance(value, str) else tuple(value)


def _nearest(word: Any, known: list[str]) -> str:
    close = get_close_matches(str(word), known, 1, 0.5)
    return f". Did you mean {close[0]!r}?" if close else f". There are: {', '.join(known)}."
