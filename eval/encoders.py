r"""Evaluate image encoders: retrieval by language, zero-shot classification, linear probe, and a report.

    openpali encoders --model outputs/contrastive --source '{"name": "emoji", "split": "test", "objects": [1, 1]}' \
        --limit 500 --output outputs/encoders

`--compare outputs/classification` adds other encoders to the linear probe; they need no text tower. A captioner
classifies by the probabilities that its decoder gives the prompts.
`python -m openpali.eval.encoders` is the same.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import normalize
from transformers import HfArgumentParser

from openpali.data.records import SkipLog
from openpali.data.sources import load_source
from openpali.eval.answering.load_model import chosen_device
from openpali.eval.image_encoders.caption_zero_shot import zero_shot_by_captions
from openpali.eval.image_encoders.embedding import embed_texts
from openpali.eval.image_encoders.heat_map import draw_heat_map
from openpali.eval.image_encoders.linear_probe import linear_probe
from openpali.eval.image_encoders.models import Encoder, is_naflex, load_encoder, short_names
from openpali.eval.image_encoders.patch_probe import probe_patches, read_patches
from openpali.eval.image_encoders.records import EncoderData, encode_source, one_record_an_image, read_again
from openpali.eval.image_encoders.report import write_encoder_report
from openpali.eval.image_encoders.scores import EncoderScores, PatchProbe, Probe
from openpali.eval.image_encoders.tables import language_rows, write_tables
from openpali.eval.image_encoders.zero_shot import zero_shot_per_language
from openpali.eval.measuring.measurement import describe, read_source
from openpali.eval.scoring.recall import retrieval_per_language
from openpali.modeling.checkpoints import INCOMPLETE_HELP
from openpali.modeling.dtypes import DtypeName
from openpali.modeling.user_errors import command

TASKS = ("retrieval", "zero_shot", "probe")
# on request: it reads the images once more
PATCHES = "patches"


@dataclass
class EncoderArguments:
    """Options of `openpali encoders`."""

    model: str = field(metadata={"help": "folder or Hub name of a SigLIP or a captioner"})
    source: str = field(
        metadata={"help": "a .jsonl file, a .yaml or .json file with a source's name and options, or those in braces"}
    )
    output: str = field(metadata={"help": "folder for metrics.json, tables, heat_map.png and report.html"})
    tasks: list[str] = field(
        default_factory=lambda: list(TASKS), metadata={"help": "some of retrieval zero_shot probe patches"}
    )
    languages: list[str] | None = field(default=None, metadata={"help": "of the texts; all when left out"})
    limit: int | None = field(default=None, metadata={"help": "number of records; all when left out"})
    text_length: int | None = field(default=None, metadata={"help": "tokens of a text; all of the model's positions"})
    compare: list[str] = field(default_factory=list, metadata={"help": "other encoders for the linear probes"})
    shots: int = field(default=10, metadata={"help": "training examples per class of the linear probe"})
    seeds: int = field(default=3, metadata={"help": "draws of the shots"})
    shots_source: str | None = field(default=None, metadata={"help": "source of the shots; --source when left out"})
    image_tokens: int | None = field(
        default=None, metadata={"help": "most tokens of an image, for NaFlex encoders; the checkpoint's when left out"}
    )
    pooling: str = field(default="auto", metadata={"help": "features of the probe: head, mean or the model's own"})
    batch_size: int = field(default=64, metadata={"help": "images or texts per batch"})
    device: str | None = field(default=None, metadata={"help": "the first accelerator, else the CPU, when left out"})
    dtype: DtypeName = field(default="auto", metadata={"help": "of the weights; auto: each checkpoint's own"})
    title: str | None = field(default=None, metadata={"help": "heading of the report"})
    incomplete_checkpoint: bool = field(default=False, metadata={"help": INCOMPLETE_HELP})

    def __post_init__(self) -> None:
        known = (*TASKS, PATCHES)
        unknown = [task for task in self.tasks if task not in known]
        if unknown or not self.tasks:
            raise ValueError(f"tasks are some of {', '.join(known)}, not {', '.join(unknown) or 'none'}")
        for key in ("limit", "text_length", "image_tokens", "batch_size", "shots", "seeds"):
            if (value := getattr(self, key)) is not None and value < 1:
                raise ValueError(f"--{key} is at least 1, not {value}")


@command("openpali encoders", ValueError)
def main(argv: list[str] | None = None) -> None:
    """Run it."""
    parser = HfArgumentParser(EncoderArguments, prog="openpali encoders", description="Measure image encoders.")  # type: ignore[arg-type]
    args = EncoderArguments(**vars(parser.parse_args(argv)))
    scores = run(args)
    print("\n".join(scores.summary()))
    print(f"Report: {Path(args.output) / 'report.html'}")


def run(args: EncoderArguments) -> EncoderScores:
    """Measure, and write metrics.json, the tables, the heat map and the report.

    Raises:
        ValueError: an unknown source, option or language, a checkpoint that is no SigLIP, or no task can be measured;
            the message says why.
        OSError: there is no such checkpoint or file.
        ImportError: scikit-learn or matplotlib is missing.
        BadRecord: the source has no good records.
    """
    output = Path(args.output)
    spec = read_source(args.source)
    # of a training configuration; evaluation does not augment
    spec.pop("augment", None)
    source = load_source(one_record_an_image(spec))
    output.mkdir(parents=True, exist_ok=True)
    encoders = load_encoders(args)
    skipped = SkipLog(output / "skipped_records.jsonl")
    data = encode_source(source, encoders, skipped, args.limit, args.languages, args.batch_size, progress=True)
    check_languages(args.languages, data)
    settings = report_settings(args, describe(spec), data, len(skipped.read()))
    scores = EncoderScores(args.title or f"{encoders[0].name} on {source.name}", settings)
    measure(args, encoders, data, scores)
    rows = language_rows(scores.retrieval, scores.zero_shot)
    if scores.retrieval or scores.zero_shot:
        write_tables(rows, output)
    if scores.retrieval:
        draw_heat_map(scores.retrieval, output / "heat_map.png", scores.title)
    content = scores.as_dict() | {"images": len(data.places), "source": spec, "arguments": asdict(args)}
    (output / "metrics.json").write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    write_encoder_report(output, scores, rows, data, source)
    return scores


def load_encoders(args: EncoderArguments) -> list[Encoder]:
    """Load the model, then those of `--compare`.

    Raises:
        ValueError: `--image_tokens` is given, and none of them is a NaFlex encoder.
    """
    checkpoints = [args.model, *(args.compare if {"probe", PATCHES} & set(args.tasks) else ())]
    device, incomplete = chosen_device(args.device), args.incomplete_checkpoint
    names = short_names(checkpoints)
    options = args.dtype, incomplete, args.image_tokens
    found = [load_encoder(one, device, args.pooling, name, *options) for one, name in zip(checkpoints, names)]
    if args.image_tokens and not any(is_naflex(encoder.model.config) for encoder in found):
        raise ValueError(
            "--image_tokens is for NaFlex encoders (SigLIP 2); these have a fixed number for their image size"
        )
    return found


def check_languages(languages: Sequence[str] | None, data: EncoderData) -> None:
    """Raise ValueError for a language without any text."""
    missing = [language for language in languages or () if language not in data.languages]
    if missing:
        raise ValueError(f"no record has texts in {', '.join(missing)}; see the captions of the source")


def measure(args: EncoderArguments, encoders: Sequence[Encoder], data: EncoderData, scores: EncoderScores) -> None:
    """Measure every task that the model and the records allow, and note why others are not measured.

    Raises:
        ValueError: no task can be measured.
    """
    steps = {"retrieval": measure_retrieval, "zero_shot": measure_zero_shot, "probe": measure_probes}
    steps |= {PATCHES: measure_patches}
    for task in [task for task in steps if task in args.tasks]:
        try:
            steps[task](args, encoders, data, scores)
        except ValueError as error:
            scores.notes.append(f"{task.replace('_', '-')}: not measured, {error}")
    if not (scores.retrieval or scores.zero_shot or scores.probes or scores.patches):
        raise ValueError("; ".join(scores.notes))


def measure_retrieval(
    args: EncoderArguments, encoders: Sequence[Encoder], data: EncoderData, scores: EncoderScores
) -> None:
    """Measure retrieval by language."""
    model = require_text_tower(encoders[0])
    if not data.texts:
        raise ValueError("the records have no captions")
    options = {"text_length": args.text_length, "batch_size": args.batch_size, "progress": True}
    scores.image_embeds = normalize(data.features[model.name]["head"], dim=-1)
    scores.text_embeds = embed_texts(model.model, model.tokenizer, data.texts, **options)
    where = torch.tensor(data.text_image), data.text_language
    scores.retrieval = retrieval_per_language(scores.image_embeds, scores.text_embeds, *where, texts=data.texts)


def measure_zero_shot(
    args: EncoderArguments, encoders: Sequence[Encoder], data: EncoderData, scores: EncoderScores
) -> None:
    """Measure zero-shot classification by language, among the classes of the records."""
    model = encoders[0] if encoders[0].is_captioner else require_text_tower(encoders[0])
    rows, concepts = labelled_images(data)
    if len(concepts) < 2:
        raise ValueError(f"the records have {len(concepts)} classes")
    languages = sorted({language for names in data.names.values() for language in names})
    classes = {language: [data.names[concept].get(language) for concept in concepts] for language in languages}
    number = {concept: i for i, concept in enumerate(concepts)}
    labels = torch.tensor([number[str(data.concepts[row])] for row in rows])
    options: dict[str, Any] = {"text_length": args.text_length, "batch_size": args.batch_size}
    if model.is_captioner:
        images = read_again(data.source, [data.places[row] for row in rows])
        scores.zero_shot = zero_shot_by_captions(model, images, labels, classes, **options, progress=True)
        return
    images = normalize(data.features[model.name]["head"][rows], dim=-1)
    scores.zero_shot = zero_shot_per_language(model.model, model.tokenizer, images, labels, classes, **options)


def measure_probes(
    args: EncoderArguments, encoders: Sequence[Encoder], data: EncoderData, scores: EncoderScores
) -> None:
    """Measure the linear probe of every encoder, on the same shots."""
    rows, concepts = labelled_images(data)
    if len(concepts) < 2:
        raise ValueError(f"the records have {len(concepts)} classes")
    labels = [str(data.concepts[row]) for row in rows]
    shots = collect_shots(args, encoders)
    for encoder in encoders:
        features = data.features[encoder.name][encoder.pooling][rows]
        options: dict[str, Any] = {"shots": args.shots, "seeds": range(args.seeds)}
        if shots is None:
            result = linear_probe(features, labels, **options)
        else:
            own, names = labelled_images(shots)[0], [str(name) for name in shots.concepts if name is not None]
            few = shots.features[encoder.name][encoder.pooling][own]
            result = linear_probe(few, names, test=(features, labels), **options)
        scores.probes.append(Probe(encoder.name, encoder.pooling, features.shape[1], result))


def measure_patches(
    args: EncoderArguments, encoders: Sequence[Encoder], data: EncoderData, scores: EncoderScores
) -> None:
    """Measure the linear probe of every encoder's patch tokens, on the same images."""
    for encoder in encoders:
        patches = read_patches(data.source, encoder, args.limit, args.batch_size, progress=True)
        scores.patches.append(PatchProbe(encoder.name, patches.tokens.shape[1], probe_patches(patches)))


def collect_shots(args: EncoderArguments, encoders: Sequence[Encoder]) -> EncoderData | None:
    """Features of `--shots_source`; None without one, where shots are drawn from the source itself."""
    if args.shots_source is None:
        return None
    source = load_source(read_source(args.shots_source))
    skipped = SkipLog(Path(args.output) / "skipped_shots.jsonl")
    return encode_source(source, encoders, skipped, None, None, args.batch_size, progress=True)


def require_text_tower(encoder: Encoder) -> Encoder:
    """The encoder. Raises ValueError where it has no text tower."""
    if not encoder.has_text_tower:
        raise ValueError(f"{encoder.name} has no text tower")
    return encoder


def labelled_images(data: EncoderData) -> tuple[list[int], list[str]]:
    """Indices of the images with a class, and all classes in alphabetical order."""
    rows = [row for row, concept in enumerate(data.concepts) if concept is not None]
    return rows, sorted({concept for concept in data.concepts if concept is not None})


def report_settings(args: EncoderArguments, source: str, data: EncoderData, skipped: int) -> dict[str, str | int]:
    """Checkpoint, source and counts for the head of the report."""
    settings: dict[str, str | int] = {"checkpoint": args.model, "source": source, "images": f"{len(data.places):,}"}
    if data.texts:
        languages = len(set(data.text_language))
        settings["texts"] = f"{len(data.texts):,} in {languages} language{'s' if languages > 1 else ''}"
    if args.image_tokens:
        settings["image tokens"] = args.image_tokens
    if args.shots_source:
        settings["shots"] = describe(read_source(args.shots_source))
    return settings | ({"skipped records": skipped} if skipped else {})


if __name__ == "__main__":
    main()
