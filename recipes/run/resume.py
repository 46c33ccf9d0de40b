"""Where a killed run resumes: the complete checkpoint to start from, and the refusal to mix two runs in one folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from openpali.data.files.config import ConfigError
from openpali.recipes.run.arguments import RunArguments, save_config
from openpali.recipes.run.fingerprint import fingerprints
from openpali.recipes.run.run_folder import (
    CONFIG_FILE,
    FINGERPRINTS_FILE,
    LOG_FILE,
    checkpoints,
    finish_interrupted_writes,
    remove_run,
)

# any of the patterns is enough; the later ones are what FSDP and DeepSpeed write
REQUIRED_FILES = {
    "weights": ("*.safetensors", "pytorch_model*", "global_step*"),
    "optimizer": ("optimizer*", "global_step*"),
    "schedule": ("scheduler.pt", "global_step*"),
    "random states": ("rng_state*",),
}


def open_run(args: RunArguments, inputs: Mapping[str, Any] | None = None) -> Path | None:
    """Claim `output_dir`, write the resolved configuration into it, and find the checkpoint to resume from.

    Args:
        args: of the run.
        inputs: specs of sources and tasks, and folders of checkpoints, by name: a run whose data or starting
            checkpoint have changed is another run.

    Returns:
        The checkpoint to resume from; None to start at step 0.

    Raises:
        ConfigError: if the folder holds another run and neither `resume` nor `overwrite` says what to do, if the
            checkpoint named by `resume` is missing or incomplete, or if there is nothing to train.
    """
    folder = args.folder
    # configurations for evaluation alone have no epochs
    if args.max_steps <= 0 and args.num_train_epochs <= 0:
        raise ConfigError(f"num_train_epochs={args.num_train_epochs}: nothing would be trained; it is above 0")
    if args.overwrite and args.resume not in (None, "none"):
        raise ConfigError("resume and overwrite contradict each other: give one of them")
    with args.main_process_first(local=False):
        if args.process_index == 0:
            if args.overwrite:
                remove_run(folder)
            current = fingerprints(inputs or {}, folder)
            refuse_other_run(folder, args, current)
            finish_interrupted_writes(folder)
            folder.mkdir(parents=True, exist_ok=True)
            save_config(folder / CONFIG_FILE, args)
            (folder / FINGERPRINTS_FILE).write_text(json.dumps(current, indent=2) + "\n")
        if args.resume not in (None, "auto", "none"):
            return complete_checkpoint(Path(args.resume))
        return last_checkpoint(folder)


def refuse_other_run(folder: Path, args: RunArguments, current: Mapping[str, str]) -> None:
    """Refuse to start in a folder that holds another run, or a run on other data.

    Args:
        folder: of the run.
        args: of the run.
        current: fingerprints of its inputs.

    Raises:
        ConfigError: naming what differs, and the options that resolve it.
    """
    saved = folder / CONFIG_FILE
    if not saved.exists():
        if any(folder.glob("*.safetensors")):
            raise ConfigError(f"{folder} holds a model already; choose another output_dir")
        return
    changes = [*changed_inputs(folder, current), *changed_keys(yaml.safe_load(saved.read_text("utf-8")) or {}, args)]
    if args.resume == "none":
        raise ConfigError(f"{folder} holds a run; add --overwrite to remove it, or choose another output_dir")
    if changes and not has_begun(folder):
        # the earlier run ended in an error, which the new configuration may fix
        return
    if changes and args.resume is None:
        raise ConfigError(
            f"{folder} holds a run with another configuration ({'; '.join(changes[:4])}); add --resume auto to"
            " resume it with the new one, --overwrite to start anew, or choose another output_dir"
        )
    if changes:
        print(f"Resuming with another configuration: {'; '.join(changes)}", flush=True)


def has_begun(folder: Path) -> bool:
    """Whether a run has trained a step."""
    return (folder / LOG_FILE).exists() or bool(checkpoints(folder)) or any(folder.glob("*.safetensors"))


def changed_inputs(folder: Path, current: Mapping[str, str]) -> list[str]:
    """Phrases that name the inputs whose content has changed since the run in the folder began."""
    path = folder / FINGERPRINTS_FILE
    saved = json.loads(path.read_text()) if path.exists() else {}
    # an input that the run had no fingerprint of counts as unchanged
    return [f"the content of {name} has changed" for name, value in current.items() if saved.get(name, value) != value]


def changed_keys(saved: dict[str, Any], args: RunArguments) -> list[str]:
    """Phrases that name the keys whose values differ between a saved configuration and this one."""
    # the same representation on both sides
    current = yaml.safe_load(yaml.safe_dump(args.resolved))
    # what a run computes does not depend on these
    ignored = ("resume", "overwrite", "output_dir", "report_to", "run_name", "project")
    keys = [key for key in dict.fromkeys([*saved, *current]) if key not in ignored]
    return [f"{k}: {saved.get(k)} before, {current.get(k)} now" for k in keys if saved.get(k) != current.get(k)]


def last_checkpoint(folder: Path) -> Path | None:
    """The complete checkpoint with the most steps; incomplete ones are skipped with a message."""
    for path in checkpoints(folder):
        missing = missing_parts(path)
        if not missing:
            return path
        print(f"Skipping {path}: it lacks {', '.join(missing)}", flush=True)
    return None


def complete_checkpoint(path: Path) -> Path:
    """The checkpoint that `resume` names.

    Raises:
        ConfigError: it is missing or incomplete.
    """
    if not path.is_dir():
        raise ConfigError(f"resume: there is no checkpoint folder {path}")
    missing = missing_parts(path)
    if missing:
        raise ConfigError(f"resume: {path} is incomplete, it lacks {', '.join(missing)}")
    return path


def missing_parts(checkpoint: Path) -> list[str]:
    """Parts that a checkpoint lacks; an incomplete one lacks at least the trainer's state, which is written last."""
    missing = [name for name, globs in REQUIRED_FILES.items() if not any(any(checkpoint.glob(g)) for g in globs)]
    try:
        json.loads((checkpoint / "trainer_state.json").read_text())
    except (OSError, ValueError):
        missing.append("trainer state")
    return missing
