"""Custom data without code: from `--data` and `--kind` to a source, a task and a schedule."""

import math
from dataclasses import dataclass, field, fields
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from accelerate import init_empty_weights

from openpali.data.custom.dataset import CustomDataset, CustomSpec, custom_spec, read_custom
from openpali.data.custom.readers import IMAGE_ENDS
from openpali.data.custom.rows import REGION_KINDS, texts
from openpali.data.files.config import ConfigError, as_dict
from openpali.data.files.run_outputs import is_run
from openpali.data.masks.mask_tokenizer import DEFAULT_CODEC
from openpali.data.records import BadRecord
from openpali.modeling.auto import checkpoint_config, load_processor, model_class
from openpali.recipes.custom_data.text_lengths import all_classes_fit, answer_tokens
from openpali.recipes.run.command_line import read_values
from openpali.recipes.run.datasets import make_source
from openpali.recipes.start.adapters import check_start
from openpali.recipes.start.resized import resolution_keys

FEW = 5_000  # images, below which a model learns them by heart
AUGMENT = {"crop": [0.6, 1.0], "zoom_out": [1.0, 1.4]}
# examples: epochs, of those that the authors try (PaliGemma, section 3.2.4)
EPOCHS = ((100, 100), (1_000, 30), (20_000, 10), (200_000, 3))
BATCHES, STEPS_AN_EPOCH = (8, 256), 16
LARGE = 500_000_000  # parameters from which a device is given few examples at a time
SMALL = 100_000_000  # parameters below which a model has seen too little to learn a task in as few epochs
_SEVERAL = 3  # answers to a question from which they are taken for those of several people


@dataclass
class CustomDataArguments:
    """Your own data, without code."""

    kind: Literal["detect", "segment", "caption", "vqa", "classify", "ocr"] | None = field(
        default=None, metadata={"help": "what --data is for; left out, a JSONL file of prefixes and suffixes"}
    )
    columns: dict | str | None = field(
        default=None, metadata={"help": 'your names of columns, as in {"image": "img", "question": "q"}'}
    )
    box_format: str = field(
        default="xywh", metadata={"help": "xywh, xyxy, cxcywh or yxyx; _relative behind it for shares of the sides"}
    )
    label_offset: int = field(default=0, metadata={"help": "added to numbers of classes; -1 if yours count from 1"})
    classes: list[str] = field(
        default_factory=list, metadata={"help": "names of classes that are numbers in the data"}
    )
    validation_data: str | None = field(default=None, metadata={"help": "file or folder, where it is one of its own"})
    test_data: str | None = field(default=None, metadata={"help": "likewise"})
    resplit: bool = field(default=False, metadata={"help": "put all parts together and split by images anew"})
    prompt: str = field(
        default="", metadata={"help": "of every example; {question}, {language}, {classes} are filled in"}
    )
    codec: str | None = field(
        default=None,
        metadata={"help": f"mask codec of --kind segment, a folder or Hub name; {DEFAULT_CODEC} if unset"},
    )
    language: str = field(default="en", metadata={"help": "of prompts and answers"})
    orientation: Literal["upright", "stored"] = field(
        default="upright", metadata={"help": "of images that EXIF turns, when they were annotated"}
    )
    clip_boxes: bool = field(default=False, metadata={"help": "to their images, however far they reach outside"})
    augment: bool | None = field(
        default=None,
        metadata={"help": "crop and zoom out of images with boxes or masks; where they are few if unset"},
    )
    check_only: bool = field(default=False, metadata={"help": "look at the data, write examples.png, and stop"})
    train_despite_errors: bool = field(default=False, metadata={"help": "train on data in which errors were found"})

    def __post_init__(self):
        self.columns = as_dict(self.columns, "columns")


def custom_keys(classes: list[type], argv: list[str] | None, above: dict[str, Any]) -> tuple[dict, dict]:
    """Keys that follow from `--data` and `--kind`: nothing without them.

    Args:
        classes: of the recipe's arguments.
        argv: the command line.
        above: what a resolution's block says.

    Returns:
        Values of keys that nobody gave (steps, batch, learning rate, and so on), and `source` and `task`.

    Raises:
        ConfigError: there is no model, or an option makes no sense.
        BadRecord: the data cannot be read at all.
    """
    values, given, *_ = read_values(classes, argv)
    if values["mix"] and values["model"]:
        sizes = [mixed_size(member_values(classes, path, values["model"], None)) for path in values["mix"]]
        check_start(values["model"])
        return schedule_keys(values | above, given | set(above), sum(sizes)), above
    if not values["kind"]:
        return {}, above
    values = values | above
    if not values["data"]:
        raise ConfigError("kind says what your data are for: give them as --data FOLDER_OR_FILE")
    if not values["model"]:
        raise ConfigError("there is no model: give --model with the folder or Hub name of a checkpoint")
    if values["codec"] and values["kind"] != "segment":
        raise ConfigError("codec is of masks: it goes with --kind segment")
    folder = check_start(values["model"])
    refuse_among_data(values["output_dir"], values["data"])
    source = custom_source(values)
    found = read_source(source)
    few = values["kind"] in REGION_KINDS and train_size(found) < FEW
    if few if values["augment"] is None else values["augment"]:
        # not mirrored: left and right may matter
        source["augment"] = as_dict(values["source"], "source").get("augment", AUGMENT)
    tokenizer = load_processor(folder).tokenizer
    task = custom_task(values, found, tokenizer)
    task["max_new_tokens"] = answer_tokens(found, tokenizer)
    task |= as_dict(values["task"], "task")
    return schedule_keys(values, given | set(above), train_size(found)), above | {"source": source, "task": task}


def refuse_among_data(output_dir: str | None, data: str) -> None:
    """Raise ConfigError where a run would write among the data, or where they lie: its images would become data."""
    folder, output = Path(data).resolve(), Path(output_dir or "").resolve()
    if not output_dir or not folder.is_dir():
        return
    within = output.is_relative_to(folder) and output.is_dir() and not is_run(output)
    if output == folder or within and any(one.suffix.lower() in IMAGE_ENDS for one in output.iterdir()):
        raise ConfigError(f"output_dir: {output_dir} holds the data; give the run a folder of its own")


def custom_source(values: dict[str, Any]) -> dict[str, Any]:
    """The source that the arguments describe; only what is not the default."""
    source = {"name": "custom", "path": values["data"], "kind": values["kind"], "split": "train"}
    source |= {"image_root": values["image_root"], "columns": as_dict(values["columns"], "columns")}
    source |= {"box_format": values["box_format"], "label_offset": values["label_offset"]}
    source |= {"classes": list(values["classes"]), "resplit": values["resplit"], "language": values["language"]}
    source |= {"validation_path": values["validation_data"], "test_path": values["test_data"]}
    source |= {"orientation": values["orientation"], "clip_boxes": values["clip_boxes"]}
    usual = {"box_format": "xywh", "language": "en", "orientation": "upright"}
    return {key: value for key, value in source.items() if value and value != usual.get(key)}


def read_source(source: dict[str, Any]) -> CustomDataset:
    """All parts of the data of a source. Raises ConfigError for an option that makes no sense."""
    # the others are of the source alone
    known = {option.name for option in fields(CustomSpec)}
    options = {key: value for key, value in source.items() if key in known}
    try:
        return read_custom(custom_spec(**options))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def custom_task(values: dict[str, Any], found: CustomDataset, tokenizer: Any) -> dict[str, Any]:
    """The task of the kind.

    Prompts for boxes and masks name every class, so that a model learns what is not there. Where the names would make
    too long a prompt, one class that is on the image is asked for.
    """
    kind, prompt, language = values["kind"], values["prompt"], values["language"]
    names = found.classes
    prompt = prompt.replace("{classes}", " ; ".join(names))
    if kind not in REGION_KINDS:
        task = {"name": "custom", "kind": kind, "language": language, "prompt": prompt}
        answers = max((len(texts(row.answers)) for row in chain(*found.good.values())), default=0)
        if kind == "vqa" and answers >= _SEVERAL:
            task["metric"] = "vqa"
        return {key: value for key, value in task.items() if value}
    task = {"name": kind} | ({"language": language} if language != "en" else {})
    task |= {"codec": values["codec"]} if kind == "segment" and values["codec"] else {}
    if prompt:
        asked = prompt_classes(prompt, kind, names)
        usual = prompt == f"{kind} " + " ; ".join(asked)
        return task | {"classes": asked} | ({} if usual else {"prompt": prompt})
    return task | ({"classes": names} if all_classes_fit(names, tokenizer, values["max_length"]) else {})


def prompt_classes(prompt: str, kind: str, names: list[str]) -> list[str]:
    """Classes that a prompt asks for: those of `detect cat ; dog`, else the names that stand in it."""
    if prompt.startswith(f"{kind} "):
        return [name for part in prompt.removeprefix(f"{kind} ").split(";") if (name := part.strip())]
    return [name for name in names if f" {name.lower()} " in f" {' '.join(words(prompt))} "]


def words(text: str) -> list[str]:
    """Lower-case words without the marks around them."""
    return [word.strip(".,;:!?\"'()[]") for word in text.lower().split()]


def requested_classes(task: dict[str, Any], found: CustomDataset) -> list[str]:
    """Classes that every prompt names; none where prompts name none, or different ones."""
    if found.spec.kind in REGION_KINDS:
        return list(task.get("classes", ()))
    if found.spec.kind != "classify":
        return []
    # a prompt that names one class is to name all
    return prompt_classes(task.get("prompt", ""), "", found.classes)


def mixed_size(values: dict[str, Any]) -> int:
    """Records of a configuration's data; 0 where that is not known."""
    source = as_dict(values["source"], "source")
    if source.get("name") == "webdataset" or not source:
        return 0
    size = len(make_source(source))
    return min(size, values["examples"] or size)


def train_size(found: CustomDataset) -> int:
    """Records to train on; 0 where there are too few to split, which is told as an error of the data."""
    try:
        return len(found.splits()["train"])
    except BadRecord:
        return 0


def schedule_keys(values: dict[str, Any], given: set[str], examples: int) -> dict[str, Any]:
    """Batch, steps, learning rate and what is frozen, for so many examples and this model.

    Args:
        values: by key, as they would be.
        given: keys that somebody gave.
        examples: to train on.
    """
    config = checkpoint_config(values["model"])
    parameters = parameter_count(values["model"])
    few, many = BATCHES
    batch = min(many, max(few, 2 ** round(math.log2(max(examples, 1) / STEPS_AN_EPOCH))))
    batch = values["examples"] and min(batch, values["examples"]) or batch
    per_device = min(batch, 8 if parameters >= LARGE else 64)
    keys: dict[str, Any] = {"per_device_train_batch_size": per_device}
    if "per_device_train_batch_size" not in given:
        keys["gradient_accumulation_steps"] = max(1, batch // per_device)
    else:
        batch = values["per_device_train_batch_size"] * values["gradient_accumulation_steps"]
    keys["per_device_eval_batch_size"] = max(8, 2 * per_device)
    examples = min(examples, values["examples"] or examples)
    epochs = epochs_for(examples, parameters)
    keys["num_train_epochs"] = float(epochs)
    if "num_train_epochs" in given:
        epochs = values["num_train_epochs"]
    steps = values["max_steps"] if values["max_steps"] > 0 else max(1, math.ceil(epochs * examples / batch))
    keys["eval_steps"] = keys["save_steps"] = float(max(1, math.ceil(steps / 10)))
    keys["logging_steps"] = float(max(1, steps // 50))
    # 1e-5 for the authors' billions, more for small models, as was found with them
    rate = min(1e-3, max(1e-5, 2e4 / parameters))
    keys["learning_rate"] = float(f"{min(2e-3, rate * (1 if values['peft'] == 'none' else 10)):.1g}")
    # PaLI-3's encoder is frozen in all transfers, PaliGemma's trains
    keys["freeze"] = ["vision_tower"] if config.model_type == "pali3" else []
    return {key: value for key, value in keys.items() if key not in given}


def epochs_for(examples: int, parameters: int) -> int:
    """How often to see each example: fewer times the more there are, one step more for a small model."""
    counts = [count for _, count in EPOCHS] + [1]
    place = sum(examples >= most for most, _ in EPOCHS)
    return counts[max(0, place - (parameters < SMALL))]


def parameter_count(folder: str) -> int:
    """Parameters of a checkpoint, from its configuration."""
    config = checkpoint_config(folder)
    with init_empty_weights():
        model = model_class(config)(config)
    return sum(parameter.numel() for parameter in model.parameters())


def member_values(classes: list[type], path: str, model: str, resolution: int | None) -> dict[str, Any]:
    """Every key of a configuration of a mixture, with the source and task that its data and kind stand for."""
    line = ["--config", path, "--model", model, *(["--resolution", str(resolution)] if resolution else [])]
    below, above = custom_keys(classes, line, resolution_keys(classes, line))
    return read_values(classes, line, below, above).values
