"""Defaults for custom data: the source, the task and the schedule that follow from `--data` and `--kind`."""

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
from openpali.data.files.run_folders import is_run
from openpali.data.masks.mask_tokenizer import DEFAULT_CODEC
from openpali.modeling.auto import checkpoint_config, load_processor, model_class
from openpali.recipes.custom_data.split_checks import usable_splits
from openpali.recipes.custom_data.text_lengths import all_classes_fit, answer_tokens
from openpali.recipes.run.command_line import read_values
from openpali.recipes.run.datasets import make_source
from openpali.recipes.start.adapters import check_start
from openpali.recipes.start.resized_checkpoint import resolution_keys

FEW = 5_000  # images below which a model memorises them
AUGMENT = {"crop": [0.6, 1.0], "zoom_out": [1.0, 1.4]}
# (examples, epochs): epochs of data with fewer examples, among those of PaliGemma (section 3.2.4)
EPOCHS = ((100, 100), (1_000, 30), (20_000, 10), (200_000, 3))
BATCHES, STEPS_AN_EPOCH = (8, 256), 16
LARGE = 500_000_000  # parameters from which a device takes few examples at a time
SMALL = 100_000_000  # parameters below which a model needs more epochs
_SEVERAL = 3  # answers to a question from which they count as those of several annotators, as in VQAv2


@dataclass
class CustomDataArguments:
    """Custom data, without code."""

    kind: Literal["detect", "segment", "caption", "vqa", "classify", "ocr"] | None = field(
        default=None, metadata={"help": "task of --data; if unset, --data is a JSONL file of prefixes and suffixes"}
    )
    columns: dict | str | None = field(
        default=None, metadata={"help": 'your names of columns, as in {"image": "img", "question": "q"}'}
    )
    box_format: str = field(
        default="xywh",
        metadata={"help": "xywh, xyxy, cxcywh or yxyx; suffix _relative for shares of the sides"},
    )
    label_offset: int = field(default=0, metadata={"help": "added to category ids; -1 if yours are 1-based"})
    classes: list[str] = field(
        default_factory=list, metadata={"help": "class names in the order of their ids, if the data have ids only"}
    )
    validation_data: str | None = field(default=None, metadata={"help": "of the validation split, if separate"})
    test_data: str | None = field(default=None, metadata={"help": "of the test split, likewise"})
    resplit: bool = field(default=False, metadata={"help": "join all splits and split by images anew"})
    prompt: str = field(
        default="", metadata={"help": "of every example; {question}, {language}, {classes} are filled in"}
    )
    codec: str | None = field(
        default=None,
        metadata={"help": f"mask codec of --kind segment, a folder or Hub name; {DEFAULT_CODEC} if unset"},
    )
    language: str = field(default="en", metadata={"help": "of prompts and answers"})
    orientation: Literal["upright", "stored"] = field(
        default="upright", metadata={"help": "in which images that EXIF turns were annotated"}
    )
    clip_boxes: bool = field(default=False, metadata={"help": "clip boxes that reach outside their images"})
    augment: bool | None = field(
        default=None,
        metadata={"help": "crop and zoom out of images with boxes or masks; if unset, for few images"},
    )
    check_only: bool = field(default=False, metadata={"help": "check the data, write examples.png, and stop"})
    train_despite_errors: bool = field(default=False, metadata={"help": "train although the data have errors"})

    def __post_init__(self):
        self.columns = as_dict(self.columns, "columns")


def custom_keys(classes: list[type], argv: list[str] | None, resolution_values: dict[str, Any]) -> tuple[dict, dict]:
    """Keys that follow from `--data` and `--kind`; none without them.

    Args:
        classes: of the recipe's arguments.
        argv: the command line.
        resolution_values: keys that the configuration sets for the resolution.

    Returns:
        Defaults (steps, batch, learning rate, and so on), and values that override: `source`, `task` and
        `resolution_values`.

    Raises:
        ConfigError: there is no model, or an option makes no sense.
        BadRecord: the data cannot be read at all.
    """
    values, user_keys, *_ = read_values(classes, argv)
    if values["mix"] and values["model"]:
        sizes = [member_size(member_values(classes, path, values["model"], None)) for path in values["mix"]]
        check_start(values["model"])
        defaults = schedule_keys(values | resolution_values, user_keys | set(resolution_values), sum(sizes))
        return defaults, resolution_values
    if not values["kind"]:
        return {}, resolution_values
    values = values | resolution_values
    if not values["data"]:
        raise ConfigError("--kind is the task of custom data: give them as --data FOLDER_OR_FILE")
    if not values["model"]:
        raise ConfigError("there is no model: give --model with the folder or Hub name of a checkpoint")
    if values["codec"] and values["kind"] != "segment":
        raise ConfigError("--codec is for masks: give it with --kind segment")
    folder = check_start(values["model"])
    check_output_dir(values["output_dir"], values["data"])
    source = custom_source(values)
    data = read_source(source)
    few = values["kind"] in REGION_KINDS and train_size(data) < FEW
    if few if values["augment"] is None else values["augment"]:
        # not mirrored: left and right may matter
        source["augment"] = as_dict(values["source"], "source").get("augment", AUGMENT)
    tokenizer = load_processor(folder).tokenizer
    task = custom_task(values, data, tokenizer)
    task["max_new_tokens"] = answer_tokens(data, tokenizer)
    task |= as_dict(values["task"], "task")
    defaults = schedule_keys(values, user_keys | set(resolution_values), train_size(data))
    return defaults, resolution_values | {"source": source, "task": task}


def check_output_dir(output_dir: str | None, data: str) -> None:
    """Raise ConfigError if a run would write among the data, where its images would become data."""
    folder, output = Path(data).resolve(), Path(output_dir or "").resolve()
    if not output_dir or not folder.is_dir():
        return
    within = output.is_relative_to(folder) and output.is_dir() and not is_run(output)
    if output == folder or within and any(one.suffix.lower() in IMAGE_ENDS for one in output.iterdir()):
        raise ConfigError(f"output_dir: {output_dir} holds the data; give the run a folder of its own")


def custom_source(values: dict[str, Any]) -> dict[str, Any]:
    """The source that the arguments describe, without default values."""
    source = {"name": "custom", "path": values["data"], "kind": values["kind"], "split": "train"}
    source |= {"image_root": values["image_root"], "columns": as_dict(values["columns"], "columns")}
    source |= {"box_format": values["box_format"], "label_offset": values["label_offset"]}
    source |= {"classes": list(values["classes"]), "resplit": values["resplit"], "language": values["language"]}
    source |= {"validation_path": values["validation_data"], "test_path": values["test_data"]}
    source |= {"orientation": values["orientation"], "clip_boxes": values["clip_boxes"]}
    usual = {"box_format": "xywh", "language": "en", "orientation": "upright"}
    return {key: value for key, value in source.items() if value and value != usual.get(key)}


def read_source(source: dict[str, Any]) -> CustomDataset:
    """The custom data of a source, all splits. Raises ConfigError for an invalid option."""
    # other options are those of the source
    known = {option.name for option in fields(CustomSpec)}
    options = {key: value for key, value in source.items() if key in known}
    try:
        return read_custom(custom_spec(**options))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def custom_task(values: dict[str, Any], data: CustomDataset, tokenizer: Any) -> dict[str, Any]:
    """The task of the kind.

    Prompts for boxes and masks name every class, so that a model learns which are absent. If that makes the prompt too
    long, it names one class that is on the image.
    """
    kind, prompt, language = values["kind"], values["prompt"], values["language"]
    names = data.classes
    prompt = prompt.replace("{classes}", " ; ".join(names))
    if kind not in REGION_KINDS:
        task = {"name": "custom", "kind": kind, "language": language, "prompt": prompt}
        answers = max((len(texts(row.answers)) for row in chain(*data.good.values())), default=0)
        if kind == "vqa" and answers >= _SEVERAL:
            task["metric"] = "vqa"
        return {key: value for key, value in task.items() if value}
    task = {"name": kind} | ({"language": language} if language != "en" else {})
    task |= {"codec": values["codec"]} if kind == "segment" and values["codec"] else {}
    if prompt:
        in_prompt = prompt_classes(prompt, kind, names)
        usual = prompt == f"{kind} " + " ; ".join(in_prompt)
        return task | {"classes": in_prompt} | ({} if usual else {"prompt": prompt})
    return task | ({"classes": names} if all_classes_fit(names, tokenizer, values["max_length"]) else {})


def prompt_classes(prompt: str, kind: str, names: list[str]) -> list[str]:
    """Classes in a prompt: those of `detect cat ; dog`, else the class names that occur in it."""
    if prompt.startswith(f"{kind} "):
        return [name for piece in prompt.removeprefix(f"{kind} ").split(";") if (name := piece.strip())]
    return [name for name in names if f" {name.lower()} " in f" {' '.join(words(prompt))} "]


def words(text: str) -> list[str]:
    """Lower-case words without punctuation."""
    return [word.strip(".,;:!?\"'()[]") for word in text.lower().split()]


def task_classes(task: dict[str, Any], data: CustomDataset) -> list[str]:
    """Classes that every prompt of a task names; none if prompts name none, or different ones."""
    if data.spec.kind in REGION_KINDS:
        return list(task.get("classes", ()))
    if data.spec.kind != "classify":
        return []
    # a prompt that names one class must name all
    return prompt_classes(task.get("prompt", ""), "", data.classes)


def member_size(values: dict[str, Any]) -> int:
    """Records of an entry of a mixture; 0 if unknown."""
    source = as_dict(values["source"], "source")
    if source.get("name") == "webdataset" or not source:
        return 0
    size = len(make_source(source))
    return min(size, values["examples"] or size)


def train_size(data: CustomDataset) -> int:
    """Records of the train split; 0 if there are too few to split, which the data check reports."""
    return len(usable_splits(data).get("train", ()))


def schedule_keys(values: dict[str, Any], user_keys: set[str], examples: int) -> dict[str, Any]:
    """Batch size, steps, learning rate and frozen modules, from the number of examples and the size of the model.

    Args:
        values: of all keys.
        user_keys: keys that the user set, which are left out.
        examples: to train on.
    """
    config = checkpoint_config(values["model"])
    parameters = parameter_count(values["model"])
    few, many = BATCHES
    batch = min(many, max(few, 2 ** round(math.log2(max(examples, 1) / STEPS_AN_EPOCH))))
    batch = values["examples"] and min(batch, values["examples"]) or batch
    per_device = min(batch, 8 if parameters >= LARGE else 64)
    keys: dict[str, Any] = {"per_device_train_batch_size": per_device}
    if "per_device_train_batch_size" not in user_keys:
        keys["gradient_accumulation_steps"] = max(1, batch // per_device)
    else:
        batch = values["per_device_train_batch_size"] * values["gradient_accumulation_steps"]
    keys["per_device_eval_batch_size"] = max(8, 2 * per_device)
    examples = min(examples, values["examples"] or examples)
    epochs = epochs_for(examples, parameters)
    keys["num_train_epochs"] = float(epochs)
    if "num_train_epochs" in user_keys:
        epochs = values["num_train_epochs"]
    steps = values["max_steps"] if values["max_steps"] > 0 else max(1, math.ceil(epochs * examples / batch))
    keys["eval_steps"] = keys["save_steps"] = float(max(1, math.ceil(steps / 10)))
    keys["logging_steps"] = float(max(1, steps // 50))
    # PaliGemma's 1e-5 for billions of parameters; more for small models, by experiment
    rate = min(1e-3, max(1e-5, 2e4 / parameters))
    keys["learning_rate"] = float(f"{min(2e-3, rate * (1 if values['peft'] == 'none' else 10)):.1g}")
    # PaLI-3 freezes its image encoder in all transfers, PaliGemma trains it
    keys["freeze"] = ["vision_tower"] if config.model_type == "pali3" else []
    return {key: value for key, value in keys.items() if key not in user_keys}


def epochs_for(examples: int, parameters: int) -> int:
    """Epochs: fewer for more examples, one level of `EPOCHS` more for a small model."""
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
    """Every key of a configuration in a mixture, with the source and task that follow from its data and kind."""
    line = ["--config", path, "--model", model, *(["--resolution", str(resolution)] if resolution else [])]
    defaults, overrides = custom_keys(classes, line, resolution_keys(classes, line))
    return read_values(classes, line, defaults, overrides).values
