"""An environment for each program, from its published packages; torch is the pinned one everywhere."""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TRANSFORMERS = ["transformers==5.24.0", "accelerate==1.15.0", "pillow==13.0.0"]
# the newest releases of November 2026; what they need beside these is what pip finds
REQUIREMENTS = {
    "transformers": TRANSFORMERS,
    "peft": ["peft==0.21.2", *TRANSFORMERS],
    "trl": ["trl==1.16.0", "datasets==5.2.0", *TRANSFORMERS],
    # it wants Transformers 5.6 at most
    "llamafactory": ["llamafactory==0.9.5", "transformers==5.6.0", "accelerate==1.11.0", "datasets==4.0.0"],
    "liger": ["liger-kernel==0.8.5", "triton==3.9.0", *TRANSFORMERS],
}
# openpali of this checkout is installed beside them
WITH_OPENPALI = ("trl",)
READY = "ready.json"


class InstallError(Exception):
    """An environment cannot be made; the message is one line."""


@dataclass
class Environment:
    """A Python with a program installed, and what had to be changed for a torch without CUDA."""

    python: Path
    notes: list[str] = field(default_factory=list)


def make_environment(name: str, folder: Path, newest: bool = False) -> Environment:
    """Make an environment, or find the one that an earlier run made.

    Args:
        name: of `REQUIREMENTS`; "openpali" is the environment that runs this.
        folder: where environments lie.
        newest: take the newest releases instead of the pinned ones.

    Raises:
        InstallError: pip could not install a package.
    """
    if name == "openpali":
        return Environment(Path(sys.executable))
    place = folder / (f"{name}-newest" if newest else name)
    wanted = [re.sub("==.*", "", one) if newest else one for one in REQUIREMENTS[name]]
    wanted.append(torch_pin())
    made = Environment(place / "bin" / "python")
    kept = json.loads((place / READY).read_text()) if (place / READY).exists() else {}
    if kept.get("requirements") != wanted:
        venv.create(place, with_pip=True, clear=True)
        # torch first, so that what needs it does not fetch another build
        install(made.python, wanted[-1])
        install(made.python, *wanted)
        kept = {"requirements": wanted, "notes": fit_to_torch(made.python)}
    if name in WITH_OPENPALI:
        install_checkout(made.python)
    (place / READY).write_text(json.dumps(kept))
    made.notes = kept["notes"]
    return made


def install_checkout(python: Path) -> None:
    """Install openpali from a copy, so that the checkout stays clean; again each time, since it may have changed."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "openpali")
        ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
        for room in ("modeling", "data", "recipes", "eval", "scripts", "src"):
            shutil.copytree(ROOT / room, copy / room, ignore=ignore)
        for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "NOTICE"):
            shutil.copy(ROOT / name, copy)
        install(python, str(copy))
        install(python, "--force-reinstall", "--no-deps", str(copy))


def torch_pin() -> str:
    """torch as in constraints.txt."""
    (line,) = re.findall(r"^torch==.*$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    return line


def install(python: Path, *packages: str) -> None:
    """`pip install`.

    Raises:
        InstallError: with pip's last line that tells an error.
    """
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise InstallError(f"pip could not install {' '.join(packages)}: {lines[-1] if lines else 'no message'}")


def fit_to_torch(python: Path) -> list[str]:
    """Repair what PyPI builds for CUDA alone, beside a torch without it; what was done."""
    notes = []
    if installed_but_broken(python, "torchvision"):
        subprocess.run([str(python), "-m", "pip", "uninstall", "--quiet", "--yes", "torchvision"], check=True)
        notes.append("torchvision taken out: PyPI's build needs CUDA")
    if installed_but_broken(python, "torchaudio"):
        for library in python.parents[1].glob("lib/python*/site-packages/torchaudio/lib/*.so"):
            library.unlink()
        notes.append("torchaudio without its compiled part: PyPI's build needs CUDA")
    return notes


def installed_but_broken(python: Path, package: str) -> bool:
    """Whether a package is there and cannot be imported."""
    code = f"import importlib.util as u, sys; u.find_spec('{package}') or sys.exit(0); import torch, {package}"
    return subprocess.run([str(python), "-c", code], capture_output=True).returncode != 0
