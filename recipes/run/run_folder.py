"""The folder of a run: whose it is, where it goes on, and which weights were best."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import yaml
from torch import nn
from transformers import PreTrainedModel

from openpali.data.files.config import ConfigError
from openpali.eval.answering.base_weights import BASE_FILE
from openpali.eval.answering.load_model import ADAPTER_CONFIG, adapter_parameters, load_adapter_weights
from openpali.modeling.four_bit import QUANTIZATION_FILE
from openpali.modeling.user_errors import CheckpointError
from openpali.recipes.run.arguments import RunArguments, save_config
from openpali.recipes.run.fingerprint import fingerprints

CONFIG_FILE = "config.yaml"
PRINTS_FILE = "fingerprints.json"
LOG_FILE = "logs.jsonl"
SKIPPED_FILE = "skipped_records.jsonl"
BEST_FOLDER = "best"
BEST_FILE = "best.json"
# checkpoints that are being written; what lies there is of no use to anybody
ASIDE = "unfinished"
OLD = ".old"
LEFT_BY_A_RUN = (CONFIG_FILE, LOG_FILE, SKIPPED_FILE, BEST_FOLDER, "tensorboard", "report.html", "metrics.json")
LEFT_BY_A_RUN += (PRINTS_FILE, ASIDE, "bad_batches", "micro_batch.json", "resized")
# a model beside the description of another one would be loaded as that
MODEL_FILES = ("config.json", ADAPTER_CONFIG, QUANTIZATION_FILE, BASE_FILE)
# any of the patterns is enough; the later ones are what FSDP and DeepSpeed write
PARTS = {
    "weights": ("*.safetensors", "pytorch_model*", "global_step*"),
    "optimizer": ("optimizer*", "global_step*"),
    "schedule": ("scheduler.pt", "global_step*"),
    "random states": ("rng_state*",),
}


def open_run(args: RunArguments, inputs: Mapping[str, Any] | None = None) -> Path | None:
    """Claim `output_dir`, write the resolved configuration into it, and find where to go on.

    Args:
        args: of the run.
        inputs: specs of sources and tasks, and folders of checkpoints, by name: a run whose data or start have
            changed since it began is another one.

    Returns:
        The checkpoint to resume from; None to start at step 0.

    Raises:
        ConfigError: if the folder holds another run and neither `resume` nor `overwrite` says what to do, if the
            checkpoint named by `resume` is missing or incomplete, or if there is nothing to train.
    """
    folder = args.folder
    # configurations of what is only evaluated have no epochs
    if args.max_steps <= 0 and args.num_train_epochs <= 0:
        raise ConfigError(f"num_train_epochs={args.num_train_epochs}: nothing would be trained; it is above 0")
    with args.main_process_first(local=False):
        if args.process_index == 0:
            if args.overwrite:
                clear(folder, args)
            prints = fingerprints(inputs or {}, folder)
            refuse_foreign(folder, args, prints)
            mend(folder)
            folder.mkdir(parents=True, exist_ok=True)
            save_config(folder / CONFIG_FILE, args)
            (folder / PRINTS_FILE).write_text(json.dumps(prints, indent=2) + "\n")
        if args.resume not in (None, "auto", "none"):
            return named_checkpoint(Path(args.resume))
        return last_checkpoint(folder)


def clear(folder: Path, args: RunArguments) -> None:
    """Remove what an earlier run left, and nothing else that may lie in the folder."""
    if args.resume not in (None, "none"):
        raise ConfigError("resume and overwrite contradict each other: give one of them")
    if not (folder / CONFIG_FILE).exists():
        return
    saved = [*folder.glob("checkpoint-*"), *folder.glob("*.safetensors*")]
    for path in [folder / name for name in LEFT_BY_A_RUN + MODEL_FILES] + saved:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def refuse_foreign(folder: Path, args: RunArguments, prints: Mapping[str, str]) -> None:
    """Raise ConfigError if starting this run here would mix it with another one, or one of other data."""
    saved = folder / CONFIG_FILE
    if not saved.exists():
        if any(folder.glob("*.safetensors")):
            raise ConfigError(f"{folder} holds a model already; choose another output_dir")
        return
    changes = [*changed_inputs(folder, prints), *differences(yaml.safe_load(saved.read_text("utf-8")) or {}, args)]
    if args.resume == "none":
        raise ConfigError(f"{folder} holds a run; add --overwrite to remove it, or choose another output_dir")
    if changes and not has_begun(folder):
        # it ended in an error that the new configuration may well mend
        return
    if changes and args.resume is None:
        raise ConfigError(
            f"{folder} holds a run with another configuration ({'; '.join(changes[:4])}); add --resume auto to"
            " go on with the new one, --overwrite to start anew, or choose another output_dir"
        )
    if changes:
        print(f"Going on with another configuration: {'; '.join(changes)}", flush=True)


def has_begun(folder: Path) -> bool:
    """Whether a run has trained a step."""
    return (folder / LOG_FILE).exists() or bool(checkpoints(folder)) or any(folder.glob("*.safetensors"))


def changed_inputs(folder: Path, prints: Mapping[str, str]) -> list[str]:
    """Inputs whose content is another one than when the run in the folder began, in words; unknown ones are none."""
    path = folder / PRINTS_FILE
    before = json.loads(path.read_text()) if path.exists() else {}
    return [f"the content of {name} has changed" for name, value in prints.items() if before.get(name, value) != value]


def differences(saved: dict[str, Any], args: RunArguments) -> list[str]:
    """Keys whose values differ between a saved configuration and this one, in words."""
    # the same representation on both sides
    mine = yaml.safe_load(yaml.safe_dump(args.resolved))
    ignored = ("resume", "overwrite", "output_dir")
    keys = [key for key in dict.fromkeys([*saved, *mine]) if key not in ignored]
    return [f"{k}: {saved.get(k)} before, {mine.get(k)} now" for k in keys if saved.get(k) != mine.get(k)]


def missing_parts(checkpoint: Path) -> list[str]:
    """What a checkpoint lacks; the trainer's state is written last, so a torn one lacks at least that."""
    missing = [part for part, globs in PARTS.items() if not any(any(checkpoint.glob(g)) for g in globs)]
    try:
        json.loads((checkpoint / "trainer_state.json").read_text())
    except (OSError, ValueError):
        missing.append("trainer state")
    return missing


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of a run, whole or not, the one with the most steps first."""
    found = [p for p in folder.glob("checkpoint-*") if p.name.removeprefix("checkpoint-").isdigit()]
    return sorted(found, key=lambda p: int(p.name.removeprefix("checkpoint-")), reverse=True)


def last_checkpoint(folder: Path) -> Path | None:
    """The complete checkpoint with the most steps; torn ones are named and passed over."""
    for path in checkpoints(folder):
        missing = missing_parts(path)
        if not missing:
            return path
        print(f"Passing over {path}: it lacks {', '.join(missing)}", flush=True)
    return None


def remove_old(folder: Path, kept: int | None) -> None:
    """Remove all but so many of the newest checkpoints; none when None."""
    for path in checkpoints(folder)[kept:] if kept else []:
        shutil.rmtree(path)


def flush(folder: Path) -> None:
    """Wait until everything below a folder is on the disk, so that no power cut takes it away under its new name."""
    for path in [*folder.rglob("*"), folder]:
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def replace_folder(fresh: Path, final: Path) -> None:
    """Give a finished folder its name; at every moment it or what it replaces is there, see `mend`."""
    old = final.with_name(final.name + OLD)
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    fresh.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def move_files(fresh: Path, folder: Path) -> None:
    """Move what lies in a finished folder into another one, over what it has under these names."""
    flush(fresh)
    for path in sorted(fresh.iterdir()):
        if path.is_dir():
            shutil.rmtree(folder / path.name, ignore_errors=True)
        path.replace(folder / path.name)
    fresh.rmdir()


def mend(folder: Path) -> None:
    """Finish what `replace_folder` began when a run was killed, and remove unfinished checkpoints."""
    shutil.rmtree(folder / ASIDE, ignore_errors=True)
    for old in [*folder.glob(f"checkpoint-*{OLD}"), *folder.glob(BEST_FOLDER + OLD)]:
        final = old.with_name(old.name.removesuffix(OLD))
        if final.exists():
            shutil.rmtree(old)
        else:
            old.rename(final)


def named_checkpoint(path: Path) -> Path:
    """The checkpoint that the user named, if it is one.

    Raises:
        ConfigError: saying what it lacks.
    """
    if not path.is_dir():
        raise ConfigError(f"resume: there is no checkpoint folder {path}")
    missing = missing_parts(path)
    if missing:
        raise ConfigError(f"resume: {path} is incomplete, it lacks {', '.join(missing)}")
    return path


def load_weights(model: nn.Module, folder: Path | str) -> None:
    """Put a checkpoint's weights into a model, all of them or none.

    The Trainer loads with strict=False and only warns about what it did not find, which trains on from the
    wrong weights wherever names on disk differ from names in memory; `from_pretrained` knows both. Of a model with
    adapters only those are in a checkpoint.

    Raises:
        CheckpointError: naming parameters that the checkpoint lacks.
    """
    assert isinstance(model, PreTrainedModel)
    if adapter_parameters(model):
        load_adapter_weights(model, folder)
        return
    options: dict[str, Any] = {"config": model.config, "dtype": model.dtype, "output_loading_info": True}
    loaded, info = cast(tuple[PreTrainedModel, dict], type(model).from_pretrained(folder, **options))
    missing = sorted(info["missing_keys"])
    if missing:
        raise CheckpointError(f"{folder} lacks {len(missing)} parameters, among them {', '.join(missing[:3])}")
    model.load_state_dict(loaded.state_dict(), strict=True)
