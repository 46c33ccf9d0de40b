"""One learning-rate curve over several stages (PaliGemma, section 3.2): where one stage left it, the next goes on.

Every run of pretraining leaves `stage.json`, which counts the curve in examples, so that stages of other batch sizes
go on at the same place.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from openpali.data.files.config import ConfigError, as_dict, nearest
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.run.run_folder import BEST_FILE

STAGE_FILE = "stage.json"


@dataclass
class StageArguments(RunArguments):
    """A run that may be one of several on the same curve."""

    schedule_start: int | None = field(
        default=None,
        metadata={
            "help": "steps of the rsqrt curve that earlier stages have taken, as steps of this run's batch; found in"
            " the folder of `model` when left out, 0 to begin the curve anew"
        },
    )
    component_warmup: dict | str | None = field(
        default=None,
        metadata={"help": "component: steps of this run in which its own rate rises, as in {vision_tower: 10000}"},
    )

    def __post_init__(self):
        self.component_warmup = as_dict(self.component_warmup, "component_warmup")
        super().__post_init__()
        if self.schedule_start and self.schedule != "rsqrt":
            raise ConfigError(f"schedule_start is for schedule rsqrt: a {self.schedule} one cannot be gone on with")

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """Steps until the warm-up ends; negative where an earlier stage had it."""
        start, warmup = self.schedule_start or 0, super().get_warmup_steps(num_training_steps)
        if 0 < start < warmup:
            raise ConfigError(f"schedule_start={start} lies within the warm-up of {warmup} steps: give 0 or more")
        return warmup - start


def save_stage(run: StageArguments) -> None:
    """Write what a later stage needs to know into the run's folder."""
    batch = run.examples_per_step
    content = {
        "schedule": run.schedule,
        "learning_rate": run.learning_rate,
        "steps": run.max_steps,
        "examples_per_step": batch,
        "examples_before": (run.schedule_start or 0) * batch,
        "warmup_examples": RunArguments.get_warmup_steps(run, run.max_steps) * batch,
        "timescale_examples": run.rsqrt_timescale * batch,
    }
    if run.process_index == 0:
        (run.folder / STAGE_FILE).write_text(json.dumps(content, indent=2) + "\n")


def continue_curve(run: StageArguments, model: str | None) -> None:
    """Go on where the stage ended that `model` is of, unless `schedule_start` says where.

    Warm-up and timescale become that stage's, in steps of this run's batch.

    Args:
        run: changed in place; its schedule must be rsqrt, or nothing is done.
        model: folder of the earlier run, or of a checkpoint or of the best weights in it.
    """
    found = None if model is None else earlier_stage(Path(model))
    if run.schedule != "rsqrt" or run.schedule_start is not None or found is None or found["schedule"] != "rsqrt":
        return
    batch = run.examples_per_step
    seen = found["examples_before"] + found["steps"] * found["examples_per_step"]
    if seen < found["warmup_examples"]:
        raise ConfigError(f"{model} ended within its warm-up: give schedule_start 0 to begin the curve anew")
    run.schedule_start = round(seen / batch)
    # rounded down, so that no step of the warm-up is left to this run
    run.warmup_steps = found["warmup_examples"] // batch
    run.rsqrt_timescale = max(1, round(found["timescale_examples"] / batch))
    run.say(f"Learning rates go on from {model}, {seen:,} examples or {run.schedule_start:,} steps of this run")
    if run.learning_rate != found["learning_rate"]:
        run.say(f"  with peaks of {run.learning_rate:g} in place of {found['learning_rate']:g}")


def earlier_stage(folder: Path) -> dict[str, Any] | None:
    """`stage.json` of a run, its `steps` those of the checkpoint that the folder is; None where there is none."""
    run = folder if (folder / STAGE_FILE).exists() else folder.parent
    if not (run / STAGE_FILE).exists():
        return None
    try:
        stage = json.loads((run / STAGE_FILE).read_text())
        for name, key in (("trainer_state.json", "global_step"), (BEST_FILE, "step")):
            if run != folder and (folder / name).exists():
                return stage | {"steps": json.loads((folder / name).read_text())[key]}
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{run / STAGE_FILE} cannot be read ({error}): give schedule_start") from error
    return stage


class ComponentWarmup(TrainerCallback):
    """A linear rise of the rates of some components, under the schedule of all.

    The scheduler sets every rate anew after each step; this multiplies those of the slow components before it is used.
    """

    def __init__(self, run: StageArguments):
        self.steps = {name: int(steps) for name, steps in as_dict(run.component_warmup, "component_warmup").items()}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Refuse names that nothing has.

        Raises:
            ConfigError: naming the nearest component that trains.
        """
        if not self.steps:
            return
        known = dict.fromkeys(group["component"] for group in kwargs["optimizer"].param_groups)
        for name in self.steps:
            if name not in known:
                raise ConfigError(f"component_warmup: no component {name!r} trains{nearest(name, known)}")

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Slow this step down."""
        for group in kwargs["optimizer"].param_groups if self.steps else ():
            if steps := self.steps.get(group["component"]):
                group["lr"] *= min(1.0, state.global_step / steps)
