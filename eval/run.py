r"""Score a checkpoint on a task, keep the predictions and write the report.

    openpali eval --model outputs/demo/transfer --task answer --task_options '{"kinds": ["what"]}' \
        --source '{"name": "emoji", "split": "test", "objects": [1, 1]}' --limit 500 --blank_images \
        --output outputs/eval

`python -m openpali.eval.run` is the same. A run that was stopped goes on where it was when it is started again.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser

from openpali.data.mixture import TaskDataset
from openpali.data.records import SkipLog
from openpali.data.sources import credits_of, load_source
from openpali.data.tasks import Task, load_task
from openpali.eval.evaluate_task import TaskResult, evaluate_task
from openpali.eval.loading import load_model
from openpali.eval.prediction_file import PredictionFile, fingerprint
from openpali.eval.report import pictures, show_value, write_report


@dataclass
class EvalArguments:
    """What to measure, on what, and where to put it."""

    model: str = field(metadata={"help": "folder or Hub name of any image-text-to-text checkpoint"})
    task: str = field(metadata={"help": "a file of data/tasks: answer, caption, detect, ocr, plain …"})
    source: str = field(
        metadata={"help": "a .jsonl file, a .yaml or .json file with a source's name and options, or those in braces"}
    )
    output: str = field(metadata={"help": "folder for predictions.jsonl, metrics.json and report.html"})
    task_options: str = field(default="{}", metadata={"help": "options of the task, as JSON or YAML"})
    limit: int | None = field(default=None, metadata={"help": "number of examples; all when left out"})
    blank_images: bool = field(default=False, metadata={"help": "measure with blank images as well"})
    batch_size: int = field(default=32, metadata={"help": "examples a batch"})
    num_beams: int = field(default=1, metadata={"help": "1 is greedy"})
    box_scores: bool = field(default=False, metadata={"help": "rank boxes for mAP by the probability of their tokens"})
    seed: int = field(default=0, metadata={"help": "of the choices that the task draws, such as the question"})
    device: str | None = field(default=None, metadata={"help": "the first accelerator, else the CPU, when left out"})
    title: str | None = field(default=None, metadata={"help": "heading of the report"})
    logs: str | None = field(default=None, metadata={"help": "logs.jsonl of a training run, for the loss curve"})
    overwrite: bool = field(default=False, metadata={"help": "forget predictions of an earlier run"})


def main(argv: list[str] | None = None) -> None:
    """Run it."""
    parser = HfArgumentParser(EvalArguments, prog="openpali eval", description="Score a checkpoint on a task.")  # type: ignore[arg-type]
    args = EvalArguments(**vars(parser.parse_args(argv)))
    try:
        result = run(args)
    except (ValueError, OSError) as error:
        raise SystemExit(f"openpali eval: {error}") from error
    print(summary(result))
    print(f"Report: {Path(args.output) / 'report.html'}")


def run(args: EvalArguments) -> TaskResult:
    """Measure, and write predictions.jsonl, metrics.json and report.html.

    Raises:
        ValueError: an unknown task, source or option, or predictions of other settings in the output folder.
        OSError: there is no such checkpoint or file.
    """
    output = Path(args.output)
    source_spec, task_spec = read_source(args.source), {"name": args.task, **read_mapping(args.task_options)}
    # a training configuration's; scores are of the pictures as they are
    source_spec.pop("augment", None)
    source, task = load_source(source_spec), load_task(task_spec)
    settings = {
        "model": args.model,
        "model_files": fingerprint(args.model),
        "task": task_spec,
        "source": source_spec,
        "source_files": fingerprint(str(source_spec.get("path", ""))),
        "num_beams": args.num_beams,
        "seed": args.seed,
        # not named where it is off, as in the files of earlier runs
        **({"box_scores": True} if args.box_scores else {}),
    }
    stores = {
        False: PredictionFile(output / "predictions.jsonl", settings, args.overwrite),
        True: PredictionFile(output / "predictions_blank.jsonl", settings, args.overwrite),
    }
    logs = read_logs(Path(args.logs)) if args.logs else []
    model, processor = load_model(args.model, args.device)
    skipped = SkipLog(output / "skipped_records.jsonl")
    dataset = TaskDataset(source, task, args.seed, skipped)

    def measure(blank: bool) -> TaskResult:
        store = stores[blank]
        options: dict[str, Any] = {"batch_size": args.batch_size, "limit": args.limit, "num_beams": args.num_beams}
        options |= {"blank_images": blank, "box_scores": args.box_scores, "store": store}
        result = evaluate_task(model, processor, dataset, task, **options)
        store.replace(result.predictions)
        return result

    result = measure(blank=False)
    result.blank_metrics = measure(blank=True).metrics if args.blank_images else None
    save(args, output, result, settings, task)
    write_report(
        output / "report.html",
        args.title or f"{Path(args.model).name} on {task.name}",
        [result],
        pictures(result, dataset),
        logs,
        credits_of(source),
        settings=shown_settings(args, source_spec, task_spec, len(skipped.read())),
    )
    return result


def save(args: EvalArguments, output: Path, result: TaskResult, settings: dict[str, Any], task: Task) -> None:
    """Write metrics.json."""
    content = {
        "task": result.name,
        "metric": task.metric,
        "metric_key": result.metric_key,
        "metrics": result.metrics,
        "blank_metrics": result.blank_metrics,
        "notes": result.notes,
        "settings": settings | {"limit": args.limit, "arguments": asdict(args)},
    }
    (output / "metrics.json").write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def shown_settings(
    args: EvalArguments, source: dict[str, Any], task: dict[str, Any], skipped: int
) -> dict[str, str | int]:
    """What the head of the report says."""
    shown: dict[str, str | int] = {"checkpoint": args.model, "source": describe(source), "task": describe(task)}
    shown["decoding"] = "greedy" if args.num_beams == 1 else f"{args.num_beams} beams"
    if args.box_scores:
        shown["box scores"] = "probability of their tokens"
    return shown | ({"skipped records": skipped} if skipped else {})


def describe(spec: dict[str, Any]) -> str:
    """Name and options on one line."""
    options = ", ".join(f"{key} {value}" for key, value in spec.items() if key != "name")
    return f"{spec['name']} ({options})" if options else spec["name"]


def summary(result: TaskResult) -> str:
    """The metrics on one line."""
    values = [f"{key} {show_value(value, key)}" for key, value in result.metrics.items()]
    if result.blank_metrics:
        key = result.metric_key
        values.append(f"with blank images {key} {show_value(result.blank_metrics[key], key)}")
    return f"{result.name}: " + ", ".join([*values, *(f"{key} {note}" for key, note in result.notes.items())])


def read_source(text: str) -> dict[str, Any]:
    """The spec of a source from a .jsonl file, from a .yaml or .json file that holds it, or from its own text."""
    if text.endswith(".jsonl"):
        return {"name": "jsonl", "path": text}
    if text.endswith((".yaml", ".yml", ".json")):
        return read_mapping(Path(text).read_text(encoding="utf-8"))
    return {"name": text} if text.isidentifier() else read_mapping(text)


def read_mapping(text: str) -> dict[str, Any]:
    """A mapping in JSON or YAML.

    Raises:
        ValueError: it is something else.
    """
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"neither JSON nor YAML: {text!r} ({' '.join(str(error).split())})") from error
    if not isinstance(value, dict):
        raise ValueError(f'expected options such as {{"name": "emoji", "split": "test"}}, not {text!r}')
    return value


def read_logs(path: Path) -> list[dict[str, Any]]:
    """The lines of a training run's logs.jsonl."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


if __name__ == "__main__":
    main()
