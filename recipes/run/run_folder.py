"""The folder of a run: names of its files, and writes and removals that a kill or a full disk cannot corrupt."""

import errno
import os
import shutil
from pathlib import Path

from openpali.eval.answering.base_weights import BASE_FILE
from openpali.eval.answering.load_model import ADAPTER_CONFIG
from openpali.modeling.four_bit import QUANTIZATION_FILE

CONFIG_FILE = "config.yaml"
FINGERPRINTS_FILE = "fingerprints.json"
LOG_FILE = "logs.jsonl"
SKIPPED_FILE = "skipped_records.jsonl"
TRACKERS_FILE = "trackers.json"
BEST_FOLDER = "best"
# the image encoder alone of a captioner
ENCODER_FOLDER = "encoder"
BEST_FILE = "best.json"
# folders are written here first, and moved once they are complete
UNFINISHED_FOLDER = "unfinished"
OLD_SUFFIX = ".old"
RUN_FILES = (CONFIG_FILE, LOG_FILE, SKIPPED_FILE, BEST_FOLDER, "tensorboard", "report.html", "metrics.json")
RUN_FILES += (FINGERPRINTS_FILE, TRACKERS_FILE, UNFINISHED_FOLDER, "bad_batches", "micro_batch.json", "resized")
RUN_FILES += (ENCODER_FOLDER,)
# weights beside the configuration of another model would be loaded as that model
MODEL_FILES = ("config.json", ADAPTER_CONFIG, QUANTIZATION_FILE, BASE_FILE)
# bytes: a disk with less free space is full
ALMOST_NOTHING = 1 << 20


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of a run, complete or not, the one with the most steps first."""
    found = [p for p in folder.glob("checkpoint-*") if p.name.removeprefix("checkpoint-").isdigit()]
    return sorted(found, key=lambda p: int(p.name.removeprefix("checkpoint-")), reverse=True)


def remove_old_checkpoints(folder: Path, kept: int | None) -> None:
    """Keep only the newest `kept` checkpoints; all when None."""
    for path in checkpoints(folder)[kept:] if kept else []:
        shutil.rmtree(path)


def remove_run(folder: Path) -> None:
    """Remove the files of an earlier run, and no other files in the folder."""
    if not (folder / CONFIG_FILE).exists():
        return
    saved = [*folder.glob("checkpoint-*"), *folder.glob("*.safetensors*")]
    for path in [folder / name for name in RUN_FILES + MODEL_FILES] + saved:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def flush_to_disk(folder: Path) -> None:
    """Wait until everything below a folder is on the disk, so that it survives a power cut."""
    for path in [*folder.rglob("*"), folder]:
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def replace_folder(fresh: Path, final: Path) -> None:
    """Rename a complete folder to its final name; at every moment either it or the old one is there.

    `finish_interrupted_writes` completes the renaming after a kill.
    """
    old = final.with_name(final.name + OLD_SUFFIX)
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    fresh.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def move_files(fresh: Path, folder: Path) -> None:
    """Move the content of a complete folder into another folder, replacing files of the same names."""
    flush_to_disk(fresh)
    for path in sorted(fresh.iterdir()):
        if path.is_dir():
            shutil.rmtree(folder / path.name, ignore_errors=True)
        path.replace(folder / path.name)
    fresh.rmdir()


def finish_interrupted_writes(folder: Path) -> None:
    """Complete a `replace_folder` that a kill interrupted, and remove unfinished checkpoints."""
    shutil.rmtree(folder / UNFINISHED_FOLDER, ignore_errors=True)
    for old in [*folder.glob(f"checkpoint-*{OLD_SUFFIX}"), *folder.glob(BEST_FOLDER + OLD_SUFFIX)]:
        final = old.with_name(old.name.removesuffix(OLD_SUFFIX))
        if final.exists():
            shutil.rmtree(old)
        else:
            old.rename(final)


def disk_is_full(error: BaseException, folder: Path) -> bool:
    """Whether a write into a folder failed for lack of space; torch and safetensors raise errors of their own."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    phrases = ("No space left", "os error 28", "Disk quota exceeded", "os error 122", "PytorchStreamWriter failed")
    if any(phrase in str(error) for phrase in phrases):
        return True
    # torch's error for a file that could not grow does not give the reason
    return "inline_container" in str(error) and shutil.disk_usage(folder).free < ALMOST_NOTHING
