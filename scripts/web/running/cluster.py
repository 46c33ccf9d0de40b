"""Ray, as `openpali web` uses it: started or joined, a function mapped over shards, and errors in one line."""

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from tqdm import tqdm

from openpali.data.files.config import ConfigError
from openpali.modeling.user_errors import TRACEBACK, UserError, explain


@contextmanager
def cluster(address: str | None, workers: int | None) -> Iterator[None]:
    """Ray on this machine with `workers` CPUs, or the cluster at an address; left at the end.

    Raises:
        ConfigError: there is no cluster at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # steps without a GPU see none
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray
    from ray.data.context import ShuffleStrategy

    given: dict[str, Any] = {"address": address} if address else {"num_cpus": workers or os.cpu_count() or 1}
    try:
        with silent():
            ray.init(logging_level=logging.ERROR, log_to_driver=False, include_dashboard=False, **given)
    except ConnectionError as error:
        remedy = "start one with `ray start`; where it asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
        raise ConfigError(f"ray_address: no Ray cluster answers at {address}: {remedy}") from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # the tasks of this shuffle run in the pool of processes; actors of the default one take seconds to start
    context.shuffle_strategy = ShuffleStrategy.SORT_SHUFFLE_PULL_BASED
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def silent() -> Iterator[None]:
    """Hide what Ray's own libraries print while it starts, such as its log level; its errors are exceptions."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def told(row: dict[str, Any], function: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """What a function gives, and in `error` the line for its user, since Ray would wrap an exception in its own."""
    try:
        return function(row) | {"error": ""}
    except (UserError, OSError, ImportError, torch.OutOfMemoryError) as error:
        if os.environ.get(TRACEBACK):
            raise
        return row | {"error": explain(error)}


def over_shards(
    shards: Sequence[int],
    function: Callable[[dict[str, Any]], dict[str, Any]],
    what: str,
    cpus: float = 1.0,
    gpus: float = 0.0,
    actors: int | None = None,
) -> list[dict[str, Any]]:
    """What a function gives for each shard, in the order of the shards.

    Workers keep what a function has loaded (`functools.cache`): those with a GPU are actors of their own, since a GPU
    belongs to an actor, others are Ray's pool of processes, which start once for all steps.

    Args:
        shards: their places.
        function: from `{"shard": place}` to a row with the same `shard`.
        what: title of the progress bar.
        cpus: of each worker.
        gpus: of each worker.
        actors: workers at a time, at most; None for as many as there is room for.

    Raises:
        UserError: the function has raised an error of the user.
    """
    import ray

    if not shards:
        return []
    most, options = most_actors(cpus, gpus), {"num_cpus": cpus}
    size = min(actors or len(shards), len(shards), most)
    function = partial(told, function=function)
    if gpus:
        pool = ray.data.ActorPoolStrategy(size=size)
        options |= {"num_gpus": gpus, "fn_constructor_args": (function,), "compute": pool}
    elif size < most:
        options |= {"compute": ray.data.TaskPoolStrategy(size=size)}
    done = shard_rows(shards).map(Actor if gpus else function, **options)
    found = []
    for row in tqdm(done.iter_rows(), desc=what, total=len(shards), unit="shard"):
        if row["error"]:
            raise UserError(row["error"])
        found.append(row)
    order = {place: at for at, place in enumerate(shards)}
    return sorted(found, key=lambda row: order[row["shard"]])


class Actor:
    """A function as Ray's actors want it."""

    def __init__(self, function: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        """Store the function."""
        self.function = function

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Call it."""
        return self.function(row)


def shard_rows(shards: Sequence[int]) -> Any:
    """A Ray dataset with a block for each shard."""
    import ray

    return ray.data.from_items([{"shard": place} for place in shards], override_num_blocks=len(shards))


def mapped(rows: Any, function: Callable[[dict[str, Any]], dict[str, Any]], size: int | None = None) -> Any:
    """A Ray dataset through a function on batches, from columns as NumPy arrays to such columns."""
    return rows.map_batches(function, batch_size=size, batch_format="numpy")


def grouped(rows: Any, key: str, parts: int, function: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """A Ray dataset through a function on all rows of a key.

    Args:
        rows: the dataset.
        key: a column.
        parts: among which the keys are divided; a worker holds one part at a time.
        function: from columns as NumPy arrays to columns as NumPy arrays.
    """
    return rows.groupby(key, num_partitions=parts).map_groups(function, batch_format="numpy")


def gpus_here() -> float:
    """GPUs of the cluster."""
    import ray

    return ray.cluster_resources().get("GPU", 0)


def most_actors(cpus: float, gpus: float) -> int:
    """How many actors the cluster has room for.

    Raises:
        ConfigError: it has no room for one.
    """
    import ray

    has = ray.cluster_resources()
    room = [has.get(name, 0) / need for name, need in (("CPU", cpus), ("GPU", gpus)) if need]
    if room and min(room) < 1:
        raise ConfigError(
            f"steps: an actor with cpus {cpus:g} and gpus {gpus:g} has no room in this cluster, which has"
            f" {has.get('CPU', 0):g} CPUs and {has.get('GPU', 0):g} GPUs"
        )
    return int(min(room, default=1))
