"""What the benchmarks share: CPU seconds, peak memory, cases in processes of their own, and results as lines of JSON.

A result has `ours` and `theirs`, two costs in the same unit (seconds, gigabytes, milliseconds an image), and `times`,
`theirs / ours`: how many times less openpali needs. CPU seconds are those of one process, all its threads together.
Other programs disturb them less than wall time; memory is not disturbed.
"""

import argparse
import json
import os
import platform
import re
import resource
import shlex
import subprocess
import sys
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "pillow", "torchvision", "open_clip_torch", "datasets")


def cpu_seconds() -> float:
    """User and system time of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def resident_gigabytes(field: str) -> float:
    """`VmRSS`, `RssAnon`, or since the last reset `VmHWM`, of this process, in GiB."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 2**20


class Peak:
    """Memory above what this process has now: `Peak()` before the work, `gigabytes()` after it."""

    def __init__(self) -> None:
        # Linux: the peak so far becomes the memory of this moment
        Path("/proc/self/clear_refs").write_text("5")
        self.before = resident_gigabytes("VmRSS")

    def gigabytes(self) -> float:
        """The largest memory since, above that of the beginning."""
        return resident_gigabytes("VmHWM") - self.before


def run_apart(file: str, **options: Any) -> dict[str, Any] | None:
    """Run a case of a benchmark in a new process, and read its last line.

    Args:
        file: the benchmark, which prints one line of JSON with these options.
        **options: of its command line; None is left out.

    Returns:
        The line's content; None where the system ended the process for its memory.

    Raises:
        subprocess.CalledProcessError: it failed otherwise.
    """
    arguments = [f"--{key}={value}" for key, value in options.items() if value is not None]
    done = subprocess.run([sys.executable, file, *arguments], stdout=subprocess.PIPE, text=True)
    # killed, as the system does when memory ends, or refused by the allocator
    if done.returncode in (-9, MEMORY_ENDED):
        return None
    done.check_returncode()
    return json.loads(done.stdout.splitlines()[-1])


MEMORY_ENDED = 77
"""Exit status of a case that could not get its memory."""


def machine() -> str:
    """Processor and number of cores."""
    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return f"{found[1].strip() if found else platform.processor()}, {len_cores()} cores, {platform.system()}"


def len_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def versions() -> dict[str, str]:
    """Releases of what is measured, as far as it is installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


class Results:
    """Collects the ratios of one benchmark, and appends them to a file of JSON lines."""

    def __init__(self, benchmark: str, path: Path | None) -> None:
        """Write to `path`; None to write nothing."""
        self.benchmark, self.path = benchmark, path

    def add(self, case: str, against: str, unit: str, ours: float, theirs: float) -> float:
        """Add a ratio, and return it: `theirs / ours`.

        Args:
            case: what was measured.
            against: the alternative.
            unit: of both costs.
            ours: the cost of openpali.
            theirs: the cost of the alternative.
        """
        times = theirs / ours
        row = {"benchmark": self.benchmark, "case": case, "against": against, "unit": unit}
        row |= {"ours": round(ours, 4), "theirs": round(theirs, 4), "times": round(times, 3)}
        row |= {"command": self.command(), "machine": machine(), "versions": versions(), "date": str(date.today())}
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")
        return times

    def command(self) -> str:
        """The command line, without the file of the results."""
        words = [word for word in sys.argv[1:] if not word.startswith("--results")]
        return shlex.join(["python", f"benchmarks/{self.benchmark}.py", *words])


def add_results(parser: argparse.ArgumentParser) -> None:
    """The option that names the file of the results; written as `--results=FILE`."""
    parser.add_argument("--results", type=Path, help="append the ratios to this file, as lines of JSON")
