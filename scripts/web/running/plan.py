"""The configuration of `openpali web`: which shards, which steps with which options and resources, and where to."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from itertools import groupby
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from openpali.data.files.config import ConfigError, coerce, nearest
from openpali.data.files.shard_files import find_shards
from openpali.scripts.web.running.registry import step_class
from openpali.scripts.web.running.samples import UNKNOWN

RESOURCES: dict[str, Any] = {"batch_size": 64, "cpus": 1.0, "gpus": 0.0, "actors": None}


@dataclass
class WebArguments:
    """Options of `openpali web`."""

    input: list[str] = field(default_factory=list, metadata={"help": "folder, pattern or addresses of raw tar shards"})
    output: str = field(default="outputs/web", metadata={"help": "folder of what is made; every node must see it"})
    language: str = field(default=UNKNOWN, metadata={"help": "of captions whose language is not given; und: unknown"})
    steps: list[dict] = field(
        default_factory=list,
        metadata={"help": "in their order: {name, its options, batch_size, cpus, gpus, actors}"},
    )
    workers: int | None = field(default=None, metadata={"help": "processes at a time; by default one for each CPU"})
    ray_address: str | None = field(
        default=None, metadata={"help": "of a running Ray cluster, or auto; by default Ray starts on this machine"}
    )


@dataclass(frozen=True)
class StepPlan:
    """One step with its resources.

    Attributes:
        place: in the configuration, from 1.
        name: as in the configuration.
        step: with its options.
        batch_size: most samples in a call.
        cpus: of each actor.
        gpus: of each actor; a share such as 0.25 lets four of them have one GPU.
        actors: that call this step; None for one for each worker.
    """

    place: int
    name: str
    step: Any
    batch_size: int
    cpus: float
    gpus: float
    actors: int | None

    @property
    def folder(self) -> str:
        """Name of the folder of its tables, as in `03-similarity`."""
        return f"{self.place:02d}-{self.name}"

    @property
    def is_whole(self) -> bool:
        """Whether it looks at the whole set, and not at samples."""
        return hasattr(self.step, "decide")


@dataclass(frozen=True)
class WebRun:
    """A run of the pipeline: its shards, its steps, and its folder.

    Attributes:
        output: folder of what is made.
        urls: addresses of the raw shards.
        names: of the shards, unique.
        language: of captions whose language is not given.
        steps: in their order.
    """

    output: Path
    urls: tuple[str, ...]
    names: tuple[str, ...]
    language: str
    steps: tuple[StepPlan, ...]

    def table(self, plan: StepPlan, shard: str) -> Path:
        """File of what a step says of a shard's samples."""
        return self.output / "tables" / plan.folder / f"{shard}.parquet"

    def unusable(self, shard: str) -> Path:
        """File of a shard's samples that cannot be used."""
        return self.output / "tables" / "00-unusable" / f"{shard}.parquet"

    def index(self, shard: str) -> Path:
        """File of the index of what is kept of a shard."""
        return self.output / "index" / f"{shard}.parquet"

    def passes(self) -> Iterator[tuple[StepPlan, ...]]:
        """See `passes`."""
        return passes(self.steps)


def passes(steps: Sequence[StepPlan]) -> Iterator[tuple[StepPlan, ...]]:
    """Steps that read the images together: neighbours with equal resources. Steps of the whole set stand alone."""
    for _, group in groupby(steps, lambda one: one.folder if one.is_whole else (one.cpus, one.gpus, one.actors)):
        yield tuple(group)


def plan_run(args: WebArguments) -> WebRun:
    """The run that the options describe.

    Raises:
        ConfigError: there are no shards or no steps, or an option is unknown or invalid.
    """
    if not args.steps:
        raise ConfigError("steps: there are none; --config web/nano shows some")
    if args.workers is not None and args.workers < 1:
        raise ConfigError(f"workers is at least 1, not {args.workers}")
    try:
        urls, names = find_shards(args.input)
    except ValueError as error:
        raise ConfigError(f"input: {error}") from error
    steps = tuple(plan_step(place, spec) for place, spec in enumerate(args.steps, 1))
    for place, plan in enumerate(steps):
        needs = getattr(plan.step, "needs", None)
        if needs and needs not in [earlier.name for earlier in steps[:place]]:
            raise ConfigError(f"steps: {plan.folder} needs the step {needs} before it")
    return WebRun(Path(args.output), tuple(urls), tuple(names), args.language, steps)


def plan_step(place: int, spec: Any) -> StepPlan:
    """One step of a configuration.

    Raises:
        ConfigError: there is no such step, or an option is unknown or invalid.
    """
    if isinstance(spec, str):
        spec = {"name": spec}
    if not isinstance(spec, dict) or "name" not in spec:
        raise ConfigError(f"steps: step {place} must be a name or a mapping with a name, not {spec!r}")
    where = f"steps: {place:02d}-{spec['name']}"
    try:
        kind = step_class(spec["name"])
    except ValueError as error:
        raise ConfigError(f"steps: {error}") from error
    hints = get_type_hints(kind)
    own = {item.name: hints[item.name] for item in fields(kind) if item.init}
    given = {key: value for key, value in spec.items() if key != "name"}
    for key in given:
        if key not in own and key not in RESOURCES:
            raise ConfigError(f"{where}: unknown option {key!r}{nearest(key, own | RESOURCES)}")
    options = {key: declared(given[key], own[key], f"{where}: {key}") for key in own if key in given}
    try:
        step = kind(**options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error}") from error
    return StepPlan(place, spec["name"], step, **resources(given, where))


def declared(value: Any, hint: Any, where: str) -> Any:
    """A value as the type of its option; lists of YAML for tuples.

    Raises:
        ConfigError: it has another type.
    """
    if get_origin(hint) is not tuple:
        return coerce(value, hint, where)
    inner = get_args(hint)[0]
    return tuple(coerce([value] if isinstance(value, str) else value, list[inner], where))


def resources(given: dict[str, Any], where: str) -> dict[str, Any]:
    """Batch size, CPUs, GPUs and actors of a step.

    Raises:
        ConfigError: one is no number, or too small.
    """
    hints = {"batch_size": int, "cpus": float, "gpus": float, "actors": int | None}
    least = {"batch_size": 1, "cpus": 0, "gpus": 0, "actors": 1}
    found = {key: coerce(given.get(key, default), hints[key], f"{where}: {key}") for key, default in RESOURCES.items()}
    for key, value in found.items():
        if value is not None and value < least[key]:
            raise ConfigError(f"{where}: {key} is at least {least[key]}, not {value}")
    return found
