"""Measurement of one model: predictions.jsonl, metrics.json and report.html in a folder."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openpali.data.mixture import TaskDataset
from openpali.data.sources import credits_of
from openpali.eval.answering.evaluate_task import TaskResult, drop_duplicate_boxes, score_predictions
from openpali.eval.answering.load_model import load_model
from openpali.eval.answering.prediction_file import PredictionFile, file_signature
from openpali.eval.answering.predictions import answer_examples
from openpali.eval.answering.processes import Processes
from openpali.eval.groups.report import Classifier, add_groups
from openpali.eval.intervals.bootstrap import LEVEL, RESAMPLES, SEED
from openpali.eval.intervals.by_metric import add_intervals
from openpali.eval.measuring.measurement import Measurement, describe
from openpali.eval.prompts.other_models import BARE, prompt_format
from openpali.eval.report.json_numbers import json_numbers
from openpali.eval.report.page import gallery_images, write_report
from openpali.modeling.auto import checkpoint_config


@dataclass(frozen=True)
class Options:
    """Options of a measurement that are not part of a `Measurement`.

    Attributes:
        limit: number of examples; all when None.
        blank_images: measure the blind baseline (blank images) as well.
        box_scores: rank boxes, or weigh answers, by the probability of their tokens.
        drop_duplicates: overlap above which a box that repeats a better one is left out; none is when None.
        device: of the model; the first accelerator, else the CPU, when None.
        dtype: of the model's weights; auto is the checkpoint's own.
        overwrite: delete predictions of an earlier run.
        incomplete: accept a checkpoint that lacks weights.
        image_tokens: most tokens of an image of any aspect ratio; the checkpoint's when None.
        title: heading of the report; model and task when None.
        logs: lines of a training run's logs.jsonl, for the loss curve.
        classifier: of the toxicity of answers, by group; None to leave it out.
        arguments: of the command line, for metrics.json.
    """

    limit: int | None = None
    blank_images: bool = False
    box_scores: bool = False
    drop_duplicates: float | None = None
    device: str | None = None
    dtype: str = "auto"
    overwrite: bool = False
    incomplete: bool = False
    image_tokens: int | None = None
    title: str | None = None
    logs: Sequence[Mapping[str, Any]] = ()
    classifier: Classifier | None = None
    arguments: Mapping[str, Any] | None = None


def measure_model(
    model: str, measurement: Measurement, options: Options, dataset: TaskDataset, folder: Path, processes: Processes
) -> TaskResult | None:
    """Predict, score and write; predictions of an earlier run with the same settings are used.

    Args:
        model: folder or Hub name of a checkpoint.
        measurement: source, task and decoding; `dataset` is made from it.
        options: of the measurement.
        dataset: the examples.
        folder: for the files.
        processes: that share the work; each must call this.

    Returns:
        The result in the first process, None in the others.

    Raises:
        ValueError: predictions of other settings are in the folder, the model has no prompt format, or no example has
            a label of `groups`.
        OSError: there is no such checkpoint.
    """
    settings = prediction_settings(model, measurement, options)
    kinds = (False, True) if options.blank_images else (False,)
    # before the model loads, so that other settings are refused at once
    stores = {
        blank: PredictionFile(folder / f"{name}.jsonl", settings, options.overwrite, processes)
        for blank, name in ((False, "predictions"), (True, "predictions_blank"))
        if blank in kinds
    }
    device = processes.device(options.device)
    loaded = load_model(model, device, options.dtype, options.incomplete, options.image_tokens)
    results = [
        predict_and_score(*loaded, measurement, options, dataset, stores[blank], blank, processes) for blank in kinds
    ]
    result = results[0]
    if result is None:
        return None
    add_intervals(result, dataset.task.metric)
    if measurement.groups:
        add_groups(result, dataset.task.metric, measurement.groups, options.classifier)
        stores[False].replace(result.predictions)
    if options.blank_images and results[1]:
        result.blank_metrics = results[1].metrics
    save_metrics(folder / "metrics.json", result, settings, dataset.task.metric, options)
    write_report(
        folder / "report.html",
        options.title or f"{Path(model).name} on {dataset.task.name}",
        [result],
        gallery_images(result, dataset),
        options.logs,
        credits_of(dataset.source),
        settings={"checkpoint": model, **report_settings(measurement, options, len(dataset.skip_log.read()))},
    )
    return result


def predict_and_score(
    model: Any,
    processor: Any,
    measurement: Measurement,
    options: Options,
    dataset: TaskDataset,
    store: PredictionFile,
    blank: bool,
    processes: Processes,
) -> TaskResult | None:
    """Predict in every process; the first one scores, writes and returns the result."""
    rows = answer_examples(
        model,
        processor,
        dataset,
        dataset.task,
        batch_size=measurement.batch_size,
        limit=options.limit,
        num_beams=measurement.num_beams,
        blank_images=blank,
        box_scores=options.box_scores,
        store=store,
        max_length=measurement.max_length,
        progress=processes.main,
        processes=processes,
    )
    if not processes.main:
        return None
    if options.drop_duplicates is not None:
        dropped = drop_duplicate_boxes(rows, options.drop_duplicates)
        print(f"Left out as repeated: {dropped} boxes of {len(rows)} answers", flush=True)
    result = score_predictions(dataset.task, rows)
    store.replace(result.predictions)
    return result


def prediction_settings(model: str, measurement: Measurement, options: Options) -> dict[str, Any]:
    """Everything that changes a prediction; options at their default are left out, as in files of earlier runs."""
    settings: dict[str, Any] = {
        "model": model,
        "model_files": file_signature(model),
        "task": measurement.task,
        "source": measurement.source,
        "source_files": file_signature(str(measurement.source.get("path", ""))),
        "num_beams": measurement.num_beams,
        "seed": measurement.seed,
    }
    if options.box_scores:
        settings["box_scores"] = True
    if options.dtype != "auto":
        settings["dtype"] = options.dtype
    if options.image_tokens is not None:
        settings["image_tokens"] = options.image_tokens
    if measurement.max_length is not None:
        settings["max_length"] = measurement.max_length
    prompts = prompt_format(checkpoint_config(model).model_type)
    return settings if prompts == BARE.name else settings | {"prompts": prompts}


def save_metrics(path: Path, result: TaskResult, settings: dict[str, Any], metric: str, options: Options) -> None:
    """Write metrics.json."""
    content = {
        "task": result.name,
        "metric": metric,
        "metric_key": result.metric_key,
        "metrics": json_numbers(result.metrics),
        "intervals": result.intervals,
        "bootstrap": {"level": LEVEL, "resamples": RESAMPLES, "seed": SEED},
        "blank_metrics": result.blank_metrics and json_numbers(result.blank_metrics),
        "notes": result.notes,
        "groups": result.groups,
        "settings": settings | {"limit": options.limit, "arguments": dict(options.arguments or {})},
    }
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def report_settings(measurement: Measurement, options: Options, skipped: int) -> dict[str, str | int]:
    """Source, task and decoding for the head of a report."""
    settings: dict[str, str | int] = {"source": describe(measurement.source), "task": describe(measurement.task)}
    settings["decoding"] = "greedy" if measurement.num_beams == 1 else f"{measurement.num_beams} beams"
    if options.box_scores:
        settings["confidence"] = "probability of the tokens"
    if options.drop_duplicates is not None:
        settings["repeated boxes left out"] = f"above an IoU of {options.drop_duplicates:g}"
    if options.dtype != "auto":
        settings["weights"] = options.dtype
    if options.image_tokens is not None:
        settings["tokens of an image"] = f"{options.image_tokens} at most"
    return settings | ({"skipped records": skipped} if skipped else {})
