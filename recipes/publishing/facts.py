"""What a model card says about a run, read from the run's folder: base, data, languages, settings, scores, curve."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import try_to_load_from_cache

from openpali.data.files.config import ConfigError, as_dict, find_config
from openpali.data.sources.builtin.drawings import CREDITS
from openpali.data.sources.builtin.emoji36_folder import STYLES, credits_of
from openpali.eval.answering.load_model import ADAPTER_CONFIG
from openpali.modeling.auto import checkpoint_config
from openpali.modeling.four_bit import QUANTIZATION_FILE
from openpali.modeling.user_errors import CheckpointError
from openpali.recipes.run.run_folder import CONFIG_FILE, LOG_FILE
from openpali.recipes.training.best_weights import read_best
from openpali.recipes.training.progress import read_log

# settings of a run that change its result, in the order of the card
SETTINGS = ("learning_rate", "lr_multipliers", "schedule", "warmup_steps", "examples_per_step", "max_steps", "optim")
SETTINGS += (
    "adam_beta2",
    "weight_decay",
    "label_smoothing",
    "text_dropout",
    "freeze",
    "resolution",
    "image_size",
    "image_tokens",
)
SETTINGS += (
    "max_length",
    "suffix_max_length",
    "peft",
    "lora_rank",
    "lora_alpha",
    "lora_dropout",
    "dtype",
    "bf16",
    "seed",
)
# keys of a configuration that name checkpoints to start from
STARTS = ("model", "vision_checkpoint", "text_checkpoint")
# keys whose values may be the text of a mapping
MAPPINGS = ("source", "task", "texts", "unseen", "mixture")
ROWS = 10  # of the table of the curve


@dataclass(frozen=True)
class Facts:
    """Facts of a run.

    Attributes:
        folder: of the run, or of a checkpoint that openpali saved.
        config: the run's resolved configuration; empty where there is none.
        model_type: of the checkpoint, or of the base of adapters; empty where it cannot be read.
        classes: names of the model's classes in its configuration.
        text_length: tokens of a text tower's input; None without one.
    """

    folder: Path
    config: dict[str, Any]
    model_type: str
    classes: tuple[str, ...]
    text_length: int | None = None

    @property
    def adapters(self) -> bool:
        """Whether the folder holds adapters alone."""
        return (self.folder / ADAPTER_CONFIG).exists()

    @property
    def four_bit(self) -> bool:
        """Whether the adapters were trained on 4-bit weights."""
        return (self.folder / QUANTIZATION_FILE).exists()

    def starts(self) -> list[str]:
        """Folders and Hub names that the run started from."""
        return list(dict.fromkeys(str(self.config[key]) for key in STARTS if self.config.get(key)))

    def languages(self) -> list[str]:
        """Of prompts and answers: those that the configuration names, else English, the default of tasks.

        None for texts of the user's own, of which nothing is known.
        """
        found: dict[str, None] = {}
        places = [self.config, *mappings(self.config, ("task", "source", "texts"))]
        for place in places:
            several = place.get("languages") or []
            found |= dict.fromkeys([several] if isinstance(several, str) else several)
            found |= dict.fromkeys([place["language"]] if isinstance(place.get("language"), str) else [])
        if not found and any(task.get("name") != "plain" for task in mappings(self.config, ("task",))):
            return ["en"]
        return list(found)

    def sources(self) -> list[dict[str, Any]]:
        """Specifications of the sources, each once."""
        found = list(mappings(self.config, ("source", "texts", "unseen")))
        for path in self.config.get("mix") or ():
            try:
                found += mappings(yaml.safe_load(find_config(path).read_text("utf-8")), ("source",))
            except (ConfigError, OSError, yaml.YAMLError):
                # the configuration of a member has moved since
                found.append({"name": Path(path).stem})
        return list({json.dumps(one, sort_keys=True, default=str): one for one in found}.values())

    def settings(self) -> dict[str, Any]:
        """Settings that change the result, without those that are not set."""
        said = {key: self.config.get(key) for key in SETTINGS}
        if not said["peft"] or said["peft"] == "none":
            said |= dict.fromkeys(("peft", "lora_rank", "lora_alpha", "lora_dropout"))
        if (said["max_steps"] or 0) <= 0:
            said["max_steps"] = None
        return {key: value for key, value in said.items() if value not in (None, False, "", "auto", [], {})}

    def credits(self) -> list[str]:
        """Credit lines of the built-in images."""
        lines = []
        for source in self.sources():
            if source.get("name") == "emoji":
                lines.append(CREDITS)
            elif source.get("name") == "emoji36":
                lines.append(credits_of(tuple(source.get("styles") or STYLES)))
        return list(dict.fromkeys(lines))

    def scores(self) -> dict[str, dict[str, Any]]:
        """Of each task its `metrics`, with `intervals` and `blank_images` where they were measured."""
        path = self.folder / "metrics.json"
        content = json.loads(path.read_text("utf-8")) if path.exists() else {}
        found = {name: one for name, one in content.items() if isinstance(one, dict) and "metrics" in one}
        # metrics.json of `openpali eval` and of other stages has another form
        return {name: one for name, one in found.items() if isinstance(one["metrics"], dict)}

    def best(self) -> dict[str, Any] | None:
        """The validation score of the best weights: `metric`, `value`, `step`."""
        best = read_best(self.folder)
        return best if best and best["value"] is not None else None

    def curve(self) -> list[dict[str, float | None]]:
        """Up to ten rows of `step`, `loss` and `validation`, the validation loss, over the run."""
        rows: dict[int, dict[str, float | None]] = {}
        for row in read_log(self.folder / LOG_FILE):
            for key, name in (("loss", "loss"), ("eval_loss", "validation")):
                value = row.get(key)
                if value is not None and math.isfinite(value):
                    rows.setdefault(row["step"], {"step": row["step"]})[name] = value
        steps = sorted(rows)
        places = {round(i * (len(steps) - 1) / (ROWS - 1)) for i in range(ROWS)} if len(steps) > ROWS else None
        chosen = [step for i, step in enumerate(steps) if places is None or i in places]
        return [{"loss": None, "validation": None} | rows[step] for step in chosen]


def read_facts(folder: Path, config: Mapping[str, Any] | None = None) -> Facts:
    """Facts of a folder.

    Args:
        folder: of a run or of a checkpoint.
        config: of the run; that of its config.yaml when None.
    """
    path = folder / CONFIG_FILE
    saved = yaml.safe_load(path.read_text("utf-8")) if config is None and path.exists() else None
    values = dict(config or saved or {})
    # on a command line a mapping is a text; `texts` of some stages is a list
    values |= {key: as_dict(values[key], key) for key in MAPPINGS if isinstance(values.get(key), str)}
    try:
        found = checkpoint_config(folder)
    except CheckpointError:
        # the base of adapters has moved
        return Facts(folder, values, "", ())
    length = getattr(getattr(found, "text_config", None), "max_position_embeddings", None)
    return Facts(folder, values, found.model_type, tuple(found.architectures or ()), length)


def mappings(config: Any, keys: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The mappings under some keys, at any depth."""
    for key, value in config.items() if isinstance(config, dict) else ():
        if key in keys and isinstance(value, dict):
            yield value
        yield from mappings(value, keys)


def on_hub(name: str) -> bool:
    """Whether a checkpoint came from the Hub: it is in its cache, and no folder of that name is here."""
    if Path(name).exists() or name.count("/") != 1 or name.startswith(("/", ".", "~")):
        return False
    return isinstance(try_to_load_from_cache(name, "config.json"), str)


def data_name(source: Mapping[str, Any]) -> tuple[str, str]:
    """Name and kind of a source, without the path of its files: ("shapes", "custom data, detect")."""
    kind = str(source.get("name", "data"))
    path = str(source.get("path") or source.get("data") or "")
    if path.startswith("hf:"):
        return path.removeprefix("hf:").split(":")[0], "a dataset of the Hub"
    if kind in ("emoji", "emoji36"):
        return kind, "built-in images"
    kinds = {"custom": f"custom data, {source.get('kind', '')}".rstrip(", "), "jsonl": "a JSONL file"}
    name = Path(path.rstrip("/*")).name.split("{")[0] or kind
    return name, kinds.get(kind, f"in the layout of {kind}")
