r"""Score checkpoints on a task, keep the predictions and write the report.

    openpali eval --model nano --task answer --task_options '{"kinds": ["what"]}' \
        --source '{"name": "emoji", "split": "test", "objects": [1, 1]}' --limit 500 --blank_images \
        --output outputs/eval

    accelerate launch -m openpali.eval.run --config transfers/vqav2 --model outputs/vqav2 \
        --model florence-community/Florence-2-base-ft

`python -m openpali.eval.run` is the same as `openpali eval`. The same command resumes an interrupted run, with any
number of processes.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser

from openpali.data.masks.mask_tokenizer import with_codec
from openpali.data.mixture import TaskDataset
from openpali.data.records import SkipLog
from openpali.data.sources import credits_of, load_source
from openpali.data.tasks import load_task
from openpali.eval.answering.evaluate_task import TaskResult, load_metric
from openpali.eval.answering.processes import Processes, joined
from openpali.eval.groups.attributes import FIRST, check_labels
from openpali.eval.groups.report import Classifier, group_lines
from openpali.eval.groups.toxicity import check_label
from openpali.eval.measuring.measure_model import Options, measure_model, report_settings
from openpali.eval.measuring.measurement import Measurement, read_measurement
from openpali.eval.report.compare import compare_models, comparison_images, save_comparison, write_comparison
from openpali.eval.report.values import format_interval, format_value
from openpali.eval.scoring.detection_reward import check_overlap
from openpali.modeling.checkpoints import INCOMPLETE_HELP
from openpali.modeling.dtypes import DtypeName
from openpali.modeling.user_errors import command


@dataclass
class EvalArguments:
    """Options of `openpali eval`."""

    model: list[str] = field(
        metadata={
            "help": "folder or Hub name of any image-text-to-text checkpoint, or nano; several are compared",
            "action": "extend",
        }
    )
    config: str | None = field(
        default=None, metadata={"help": "YAML of a transfer, such as transfers/vqav2: its source, task and decoding"}
    )
    task: str | None = field(
        default=None, metadata={"help": "a file of data/tasks: answer, caption, detect, ocr, plain …"}
    )
    source: str | None = field(
        default=None,
        metadata={"help": "a .jsonl file, a .yaml or .json file with a source's name and options, or those in braces"},
    )
    split: str | None = field(
        default=None, metadata={"help": "of the source; the test split of a configuration's source when left out"}
    )
    output: str | None = field(
        default=None, metadata={"help": "folder for predictions, metrics and report; one under outputs/eval if unset"}
    )
    task_options: str = field(default="{}", metadata={"help": "options of the task, as JSON or YAML"})
    limit: int | None = field(default=None, metadata={"help": "number of examples; all when left out"})
    blank_images: bool = field(default=False, metadata={"help": "measure the blind baseline (blank images) as well"})
    batch_size: int | None = field(default=None, metadata={"help": "examples a batch; 32, or the configuration's"})
    num_beams: int | None = field(default=None, metadata={"help": "1 is greedy; the configuration's when left out"})
    box_scores: bool = field(
        default=False,
        metadata={"help": "rank boxes for mAP by their confidence, from the probabilities of their tokens"},
    )
    groups: str | None = field(
        default=None,
        metadata={"help": "labels of the records, such as age,gender,age+gender: scores by group and the gaps"},
    )
    toxicity: str | None = field(
        default=None,
        metadata={"help": "with --groups: folder or Hub name of a text classifier that scores the answers"},
    )
    toxicity_label: str = field(default="toxic", metadata={"help": "label of that classifier"})
    drop_duplicates: float | None = field(
        default=None,
        metadata={"help": "leave out boxes that overlap a better one of their label by more than this IoU, as 0.7"},
    )
    image_tokens: int | None = field(
        default=None,
        metadata={"help": "most tokens of an image of any aspect ratio (NaFlex); each checkpoint's when left out"},
    )
    seed: int | None = field(default=None, metadata={"help": "of the choices that the task draws; 0 when left out"})
    device: str | None = field(default=None, metadata={"help": "the first accelerator, else the CPU, when left out"})
    dtype: DtypeName = field(default="auto", metadata={"help": "of the weights; auto: each checkpoint's own"})
    title: str | None = field(default=None, metadata={"help": "heading of the report"})
    logs: str | None = field(default=None, metadata={"help": "logs.jsonl of a training run, for the loss curve"})
    overwrite: bool = field(default=False, metadata={"help": "delete predictions of an earlier run"})
    incomplete_checkpoint: bool = field(default=False, metadata={"help": INCOMPLETE_HELP})

    def __post_init__(self) -> None:
        for key in ("limit", "batch_size", "num_beams", "image_tokens"):
            if (value := getattr(self, key)) is not None and value < 1:
                raise ValueError(f"--{key} is at least 1, not {value}")
        if self.drop_duplicates is not None:
            check_overlap(self.drop_duplicates)


@command("openpali eval", ValueError)
def main(argv: list[str] | None = None) -> None:
    """Run it."""
    parser = HfArgumentParser(EvalArguments, prog="openpali eval", description="Score checkpoints on a task.")  # type: ignore[arg-type]
    args = EvalArguments(**vars(parser.parse_args(argv)))
    results = run(args)
    for name, result in results.items():
        print(f"{name}, {summary(result)}" if len(results) > 1 else summary(result))
        for line in group_lines(result.groups) if result.groups else ():
            print(f"  {line}")
    if results:
        print(f"Report: {output_folder(args) / 'report.html'}")


def run(args: EvalArguments) -> dict[str, TaskResult]:
    """Measure every model, and write predictions, metrics and the report; the processes of a launch share the work.

    Returns:
        A result for each model by its short name; none in processes other than the first.

    Raises:
        ValueError: an unknown task, source or option, or predictions of other settings in the output folder.
        OSError: there is no such checkpoint or file.
    """
    with joined() as processes:
        return measure(args, processes)


def measure(args: EvalArguments, processes: Processes) -> dict[str, TaskResult]:
    """The work of one process."""
    keys = ("config", "task", "task_options", "source", "split", "num_beams", "batch_size", "seed", "groups")
    measurement = read_measurement(args.model, **{key: getattr(args, key) for key in keys})
    source, task = load_source(measurement.source), load_task(with_codec(measurement.task, args.model[0]))
    output, names = output_folder(args), folder_names(args.model)
    skipped = SkipLog(output / "skipped_records.jsonl")
    dataset = TaskDataset(source, task, measurement.seed, skipped)
    keys = ("limit", "blank_images", "box_scores", "drop_duplicates", "device", "dtype", "overwrite", "image_tokens")
    same = {key: getattr(args, key) for key in keys}
    same["incomplete"] = args.incomplete_checkpoint
    same["box_scores"] |= getattr(load_metric(task.metric), "by_confidence", False)
    same["classifier"] = read_classifier(args, measurement)
    if measurement.groups:
        # before any model is loaded
        check_labels([dataset[index] for index in range(min(FIRST, len(dataset)))], measurement.groups)
    alone = {"title": args.title, "logs": read_logs(Path(args.logs)) if args.logs else ()} if len(names) == 1 else {}
    results: dict[str, TaskResult] = {}
    for model, name in zip(args.model, names, strict=True):
        options = Options(**same, **alone, arguments=asdict(args) | {"model": model})
        folder = output / name if len(names) > 1 else output
        result = measure_model(model, measurement, options, dataset, folder, processes)
        if result:
            results[name] = result
    if len(results) > 1:
        differences = compare_models(results, task.metric)
        save_comparison(output / "comparison.json", results, differences, task.metric, dict(zip(names, args.model)))
        settings = dict(zip(names, args.model)) | report_settings(measurement, Options(**same), len(skipped.read()))
        write_comparison(
            output / "report.html",
            args.title or f"{len(names)} models on {task.name}",
            results,
            differences,
            comparison_images(results, dataset),
            credits_of(source),
            settings=settings,
        )
    return results


def read_classifier(args: EvalArguments, measurement: Measurement) -> Classifier | None:
    """The classifier of toxicity; None without one. Raises ValueError for an unknown label, or without groups."""
    if not args.toxicity:
        return None
    if not measurement.groups:
        raise ValueError("--toxicity compares groups: give --groups as well, such as age,gender")
    return Classifier(args.toxicity, check_label(args.toxicity, args.toxicity_label), args.device)


def folder_names(models: list[str]) -> list[str]:
    """The last parts of paths and Hub names, as many as make the names unique.

    Raises:
        ValueError: a model is given twice.
    """
    parts = [[part for part in Path(model).parts if part not in ("/", ".", "..")] for model in models]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["-".join(some[-length:]) for some in parts]
        if len(set(names)) == len(names):
            return names
    raise ValueError(f"a model is given twice: {', '.join(models)}")


def output_folder(args: EvalArguments) -> Path:
    """The `--output` folder, or one named after models and task."""
    if args.output:
        return Path(args.output)
    what = "-".join(filter(None, [args.task or Path(args.config or "").stem, args.split]))
    return Path("outputs", "eval", f"{'-and-'.join(folder_names(args.model))}-on-{what}")


def summary(result: TaskResult) -> str:
    """The metrics on one line."""
    values = [f"{key} {format_value(value, key)}" for key, value in result.metrics.items()]
    if ends := result.intervals.get(result.metric_key):
        values.append(
            f"95 % bootstrap confidence interval of {result.metric_key} {format_interval(ends, result.metric_key)}"
        )
    if result.blank_metrics:
        key = result.metric_key
        values.append(f"blind baseline (blank images) {key} {format_value(result.blank_metrics[key], key)}")
    return f"{result.name}: " + ", ".join([*values, *(f"{key} {note}" for key, note in result.notes.items())])


def read_logs(path: Path) -> list[dict[str, Any]]:
    """The lines of a training run's logs.jsonl."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


if __name__ == "__main__":
    main()
