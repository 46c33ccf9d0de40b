"""Rates of steps on one core of this machine, for `openpali web --plan`.

    python -m openpali.scripts.web.rates --steps text_rules hashes questions --output rates.yaml
    python -m openpali.scripts.web.rates --config web/nano --output rates.yaml

Each step without a model is called on JPEG files of the built-in images. Steps of the whole set, and those that a run
prepares, are left out. Seconds are those of the processor, so that other work on the machine does not count. Bytes of
tables are compressed, and few: the built-in captions have few words.
"""

import argparse
import io
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow
import torch
import yaml
from pyarrow import parquet
from transformers import ViTConfig, ViTForImageClassification
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from openpali.data.files.config import find_config
from openpali.data.files.tar_shards import read_samples
from openpali.data.sources.builtin.emoji import EmojiScenes
from openpali.data.sources.webdataset import record_of
from openpali.modeling.user_errors import UserError, at_least
from openpali.recipes.run.command_line import command
from openpali.scripts.web.model_costs import config_size, model_uses
from openpali.scripts.web.running.files import write_shard, written_aside
from openpali.scripts.web.running.registry import step_class
from openpali.scripts.web.running.samples import UNKNOWN, Verdict, WebSample, merged

RESOURCES = ("name", "batch_size", "cpus", "gpus", "actors")
BATCH = 64


@command
def main(argv: list[str] | None = None) -> None:
    """Measure the rates, print them, and write them to a file."""
    parser = argparse.ArgumentParser(prog="python -m openpali.scripts.web.rates", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config", help="of `openpali web`, whose steps are measured")
    what.add_argument("--steps", nargs="+", help="names of steps, without options")
    parser.add_argument("--output", required=True, help="YAML file to write")
    parser.add_argument("--samples", type=at_least(1), default=128, help="images that each step is called on")
    parser.add_argument("--side", type=at_least(48), default=512, help="of the images in pixels")
    args = parser.parse_args(argv)
    specs = args.steps or read_steps(args.config)
    given = f"--config {args.config}" if args.config else f"--steps {' '.join(args.steps)}"
    line = f"python -m openpali.scripts.web.rates {given} --samples {args.samples} --side {args.side}"
    steps = {spec["name"]: made(spec) for spec in map(as_mapping, specs)}
    rates = {"machine": processor_name(), "command": line} | measure_rates(steps, args.samples, args.side)
    text = yaml.safe_dump(rates, sort_keys=False, width=200)
    with written_aside(Path(args.output)) as aside:
        aside.write_text(text, "utf-8")
    print(text, end="")


def read_steps(config: str) -> list[Any]:
    """The steps of a configuration.

    Raises:
        UserError: it has none.
    """
    content = yaml.safe_load(find_config(config).read_text("utf-8"))
    if not isinstance(content, dict) or not isinstance(content.get("steps"), list):
        raise UserError(f"{config} has no list of steps: give a configuration of openpali web")
    return content["steps"]


def as_mapping(spec: Any) -> dict[str, Any]:
    """A step of a configuration, which may be its name alone. Raises UserError for anything else."""
    if isinstance(spec, str):
        return {"name": spec}
    if isinstance(spec, dict) and "name" in spec:
        return spec
    raise UserError(f"a step is a name or a mapping with a name, not {spec!r}")


def made(spec: dict[str, Any]) -> Any:
    """A step with its options; None for one that cannot be made here, which is told."""
    try:
        return step_class(spec["name"])(**{key: value for key, value in spec.items() if key not in RESOURCES})
    except (ValueError, TypeError, OSError, ImportError, UserError) as error:
        print(f"{spec['name']} is left out: {error}")
        return None


def measure_rates(steps: dict[str, Any], count: int, side: int) -> dict[str, Any]:
    """Seconds of a pair on one core, and bytes of its rows in the tables.

    Args:
        steps: by name, in their order; one without a model is called, and one of the whole set is not.
        count: images to call it on.
        side: of the images in pixels.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with TemporaryDirectory() as folder:
            samples = built_in_samples(Path(folder) / "a.tar", count, side, UNKNOWN if "language" in steps else "en")
            rates = common_rates(Path(folder) / "a.tar", samples, side)
        rates["steps"] = {}
        for name, step in steps.items():
            if step is None or hasattr(step, "decide") or hasattr(step, "prepare") or _has_models(name, step):
                continue
            rates["steps"][name] = step_rate(step, samples)
        return rates
    finally:
        torch.set_num_threads(threads)


def built_in_samples(shard: Path, count: int, side: int, language: str) -> list[WebSample]:
    """Write a shard of JPEG files of the built-in images, and return its samples."""
    scenes = EmojiScenes(size=side, objects=(1, 4), words=True, length=count)
    samples, files = [], []
    for number in range(count):
        scene, file = scenes[number], io.BytesIO()
        scene["image"].save(file, "JPEG", quality=90)
        files.append((f"{number:06}", {"jpg": file.getvalue(), "txt": scene["captions"]["en"].encode()}))
        record = {"captions": {language: scene["captions"]["en"]}}
        samples.append(WebSample("a", number, f"{number:06}", scene["image"], record))
    write_shard(shard, files)
    return samples


def common_rates(shard: Path, samples: Sequence[WebSample], side: int) -> dict[str, Any]:
    """Seconds of what several steps need: reading, resizing and writing, and the FLOPs of a core in a second."""
    count = len(samples)
    processor = SiglipImageProcessorPil(size={"height": 224, "width": 224})
    # ViT-B/16
    config = ViTConfig()
    model, pixels = ViTForImageClassification(config).eval(), torch.zeros(1, 3, 224, 224)

    def copied() -> None:
        write_shard(shard.with_name("b.tar"), ((own.key, own.members) for own in read_samples(str(shard), "a")))

    def forward() -> None:
        with torch.inference_mode():
            model(pixel_values=pixels)

    return {
        "side": side,
        "bytes": shard.stat().st_size // count,
        "read": rounded(seconds(lambda: [record_of(own) for own in read_samples(str(shard), "a")]) / count),
        "write": rounded(seconds(copied) / count),
        "prepare": rounded(seconds(lambda: [processor(images=one.image) for one in samples]) / count),
        "core_flops": rounded(config_size(config, "image").flops / seconds(forward)),
    }


def step_rate(step: Any, samples: Sequence[WebSample]) -> dict[str, float]:
    """Seconds of a pair, and bytes of its row; labels are added to the records of the samples that stay."""
    batches = [list(samples[start : start + BATCH]) for start in range(0, len(samples), BATCH)]
    # models are loaded at the first call
    step(batches[0])
    start = time.process_time()
    verdicts = [verdict for batch in batches for verdict in step(batch)]
    took = time.process_time() - start
    for sample, verdict in zip(samples, verdicts, strict=True):
        sample.record = merged(sample.record, verdict)
    return {"seconds": rounded(took / len(samples)), "bytes": round(table_bytes(samples, verdicts) / len(samples))}


def table_bytes(samples: Iterable[WebSample], verdicts: Sequence[Verdict]) -> int:
    """Bytes of the verdicts as a table."""
    rows = [
        {"number": sample.number, "key": sample.key, "drop": verdict.drop, "labels": str(verdict.labels or "")}
        | {"models": str(verdict.models or "")}
        | verdict.values
        for sample, verdict in zip(samples, verdicts, strict=True)
    ]
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), buffer, compression="zstd")
    return buffer.tell()


def seconds(work: Callable[[], Any], times: int = 3) -> float:
    """Processor seconds of the fastest of several calls, so that other work on the machine does not count."""
    found = []
    for _ in range(times):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return min(found)


def rounded(value: float) -> float:
    """Three digits of a number, of which no more are known."""
    return float(f"{value:.3g}")


def processor_name() -> str:
    """The processor as the system names it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _has_models(name: str, step: Any) -> bool:
    try:
        return bool(model_uses(name, step))
    except ValueError:
        return True


if __name__ == "__main__":
    main()
