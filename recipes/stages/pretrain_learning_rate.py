"""One learning-rate schedule over several pretraining stages (PaliGemma, section 3.2): each continues the last.

Every stage writes `stage.json`, which counts steps in examples, so that stages of other batch sizes continue at the
same place.
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
    """Arguments of a stage, which may continue the schedule of an earlier one."""

    schedule_start: int | None = field(
        default=None,
        metadata={
            "help": "steps of the rsqrt schedule that earlier stages took, as steps of this run's batch; read from"
            " the folder of `model` when left out, 0 to begin the schedule anew"
        },
    )
    component_warmup: dict | str | None = field(
        default=None,
        metadata={"help": "component: steps in which its learning rate rises, as in {vision_tower: 10000}"},
    )

    def __post_init__(self):
        self.component_warmup = as_dict(self.component_warmup, "component_warmup")
        super().__post_init__()
        if self.schedule_start and self.schedule != "rsqrt":
            raise ConfigError(f"schedule_start is for schedule rsqrt: a {self.schedule} one cannot be continued")

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """Steps until the warm-up ends; negative where it ended in an earlier stage."""
        start, warmup = self.schedule_start or 0, super().get_warmup_steps(num_training_steps)
        if 0 < start < warmup:
            raise ConfigError(f"schedule_start={start} lies within the warm-up of {warmup} steps: give 0 or more")
        return warmup - start


def save_stage(run: StageArguments) -> None:
    """Write `stage.json`, from which a later stage continues the schedule."""
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


def continue_schedule(run: StageArguments, model: str | None) -> None:
    """Continue the schedule of the stage that made `model`, unless `schedule_start` is given.

    Warm-up and timescale become that stage's, in steps of this run's batch.

    Args:
        run: changed in place; nothing is done unless its schedule is rsqrt.
        model: folder of the earlier run, or of a checkpoint or the best weights in it.
    """
    found = None if model is None else read_stage(Path(model))
    if run.schedule != "rsqrt" or run.schedule_start is not None or found is None or found["schedule"] != "rsqrt":
        return
    batch = run.examples_per_step
    seen = found["examples_before"] + found["steps"] * found["examples_per_step"]
    if seen < found["warmup_examples"]:
        raise ConfigError(f"{model} ended within its warm-up: give schedule_start 0 to begin the schedule anew")
    run.schedule_start = round(seen / batch)
    # rounded down, so that no warm-up step remains for this run
    run.warmup_steps = found["warmup_examples"] // batch
    run.rsqrt_timescale = max(1, round(found["timescale_examples"] / batch))
    run.say(
        f"The learning rate continues from {model}: {seen:,} examples, or {run.schedule_start:,} steps of this run"
    )
    if run.learning_rate != found["learning_rate"]:
        run.say(f"  with a peak of {run.learning_rate:g} in place of {found['learning_rate']:g}")


def read_stage(folder: Path) -> dict[str, Any] | None:
    """`stage.json` of a run, with the steps of the checkpoint where the folder is one; None where there is none."""
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
    """A linear warm-up of single components, on top of the schedule.

    The scheduler sets every learning rate anew after each step; this multiplies some of them before they are used.
    """

    def __init__(self, run: StageArguments):
        self.steps = {name: int(steps) for name, steps in as_dict(run.component_warmup, "component_warmup").items()}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Check the names of the components.

        Raises:
            ConfigError: a component that does not train; names the nearest one that does.
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
        """Lower the learning rates of this step."""
        for group in kwargs["optimizer"].param_groups if self.steps else ():
            if steps := self.steps.get(group["component"]):
                group["lr"] *= min(1.0, state.global_step / steps)
