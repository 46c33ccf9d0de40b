"""From raw image-text shards to the input of stage 1: filter, deduplicate and label them, on Ray.

    openpali web --config web/nano --input 'raw/*.tar' --output outputs/web --workers 2
    openpali web --config web/webli-like --input 's3://raw/{00000..99999}.tar' --ray_address auto

A configuration lists the steps. Each writes a table for each shard, so that a stopped run goes on at the shard where
it was. The shards that are made are in OUTPUT/shards; `source: {name: webdataset, path: OUTPUT/shards}` reads them.
"""

import shutil
import sys
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from openpali.data.files.config import ConfigError
from openpali.recipes.run.command_line import command, read_values, set_nested, take_nested
from openpali.scripts.web.costs import PlanArguments, plan_lines
from openpali.scripts.web.counts import count_run
from openpali.scripts.web.pages.card import write_card
from openpali.scripts.web.pages.made_set import MadeSet
from openpali.scripts.web.pages.report import write_web_report
from openpali.scripts.web.passes import ATTEMPTS, steps_on_shard
from openpali.scripts.web.running.cluster import cluster, gpus_here, over_shards
from openpali.scripts.web.running.files import claim, write_json, written_aside
from openpali.scripts.web.running.plan import StepPlan, WebArguments, WebRun, plan_run, plan_step
from openpali.scripts.web.running.tables import read_unusable
from openpali.scripts.web.write import write_kept


@command
def main(argv: list[str] | None = None) -> None:
    """Run the pipeline, or go on with it, and print what was kept."""
    args, planned = read_arguments(argv)
    if planned.plan:
        print("\n".join(plan_lines([plan_step(place, spec) for place, spec in enumerate(args.steps, 1)], planned)))
        return
    run = plan_run(args)
    claim(run.output, {"shards": run.names, "language": run.language, "steps": [settings(plan) for plan in run.steps]})
    with cluster(args.ray_address, args.workers):
        counts = run_steps(run)
    print("\n".join(counts.lines()))
    made = MadeSet(run.output)
    report, card = write_web_report(made, dict(zip(run.names, run.urls))), write_card(made)
    print(f"Shards: {run.output / 'shards'}. Report: {report}. Card: {card}")


def read_arguments(argv: list[str] | None) -> tuple[WebArguments, PlanArguments]:
    """The options of a configuration and of the command line; `--steps.NAME.OPTION VALUE` changes one of a step.

    Raises:
        ConfigError: an option is unknown or has a wrong type, or there is no step of that name.
    """
    changes, rest = take_nested(list(sys.argv[1:] if argv is None else argv), {"steps": None})
    values = read_values((WebArguments, PlanArguments), rest)
    args, planned = values.parser.parse_dict(values.values)[:2]
    for _, path, value in changes:
        named = [spec["name"] if isinstance(spec, dict) else spec for spec in args.steps]
        if path[0] not in named:
            known = f"steps: there is no step {path[0]!r} in this configuration, but {', '.join(map(str, named))}"
            raise ConfigError(known)
        as_mappings = [spec if isinstance(spec, dict) else {"name": spec} for spec in args.steps]
        args.steps = [set_nested(s, path[1:], value) if s["name"] == path[0] else s for s in as_mappings]
    return args, planned


def settings(plan: StepPlan) -> dict[str, Any]:
    """What decides over a step's tables: its options and its batch size, without its resources."""
    return {"name": plan.name, "batch_size": plan.batch_size} | asdict(plan.step)


def run_steps(run: WebRun) -> Any:
    """All steps, and the shards that come out; returns the counts."""
    remove_leftovers(run.output)
    for plans in run.passes():
        missing = [place for place, name in enumerate(run.names) if not run.table(plans[-1], name).exists()]
        title = ", ".join(plan.name for plan in plans)
        if plans[0].is_whole:
            if missing:
                plans[0].step.decide(run, plans[0])
            continue
        plans = tuple(prepared(run, plan) if missing else plan for plan in plans)
        one = plans[0]
        if missing and not one.gpus and gpus_here() and any(hasattr(plan.step, "dtype") for plan in plans):
            print(f"{title}: on CPUs, since these steps ask for no GPU (gpus: 1)")
        steps = partial(steps_on_shard, run=run, plans=plans)
        over_shards(missing, steps, title, one.cpus, one.gpus, one.actors)
    missing = [place for place, name in enumerate(run.names) if not run.index(name).exists()]
    over_shards(missing, partial(write_kept, run=run), "writing shards")
    counts = count_run(run)
    write_json(run.output / "counts.json", counts.content())
    with written_aside(run.output / "skipped_records.jsonl") as aside:
        lines = [bad.to_json() for name in run.names for bad in read_unusable(run.unusable(name))]
        aside.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return counts


def prepared(run: WebRun, plan: StepPlan) -> StepPlan:
    """A step that has done what is to be done once, before the first shard."""
    return replace(plan, step=plan.step.prepare(run)) if hasattr(plan.step, "prepare") else plan


def remove_leftovers(output: Path) -> None:
    """Remove what killed workers had begun to write."""
    for folder in ("tables", "shards", "index"):
        for path in (output / folder).rglob(".*"):
            path.unlink()
    shutil.rmtree(output / ATTEMPTS, ignore_errors=True)


if __name__ == "__main__":
    main()
