"""The run in its trackers: one name for all of them, under which a resumed run goes on."""

import json
import os
import secrets
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from openpali.data.files.config import ConfigError
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.run.run_folder import TRACKERS_FILE


def start_trackers(run: RunArguments) -> None:
    """Name the run, and start it in wandb; Transformers' callbacks write into what they find.

    Args:
        run: its `run_name` is set where it was not given.

    Raises:
        ConfigError: wandb refuses, for example without a login.
    """
    if run.process_index > 0 or not run.trackers:
        return
    name = kept_name(run)
    run.run_name = run.run_name or name
    if "wandb" in run.trackers:
        start_wandb(run, name)


def kept_name(run: RunArguments) -> str:
    """The name of the run in its trackers, the same after every interruption; no other run has it."""
    path = run.folder / TRACKERS_FILE
    if not path.exists():
        name = f"{run.folder.resolve().name}-{secrets.token_hex(4)}"
        path.write_text(json.dumps({"run": name}) + "\n", "utf-8")
    return str(json.loads(path.read_text("utf-8"))["run"])


def start_wandb(run: RunArguments, name: str) -> None:
    """Start or continue the run whose id is that name; its files are written into the run's folder."""
    import wandb
    from wandb.errors import Error as WandbError

    wandb.finish()  # an earlier run of this process that failed
    project = os.environ.get("WANDB_PROJECT", run.project)
    # wandb itself ignores it offline, with a warning: there `wandb sync` joins the parts of a run, by their id
    options: dict[str, Any] = {} if os.environ.get("WANDB_MODE") == "offline" else {"resume": "allow"}
    try:
        wandb.init(project=project, name=run.run_name, id=name, dir=str(run.folder), **options)
    except WandbError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"wandb: {reason}: log in by `wandb login`, or set WANDB_MODE=offline") from error


class TrackersEnd(TrainerCallback):
    """Finishes the run in wandb, so that the next one in this process is another one; trackio's callback does so."""

    def __init__(self, run: RunArguments):
        self.run = run

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write what is left."""
        if state.is_world_process_zero and "wandb" in self.run.trackers:
            import wandb

            wandb.finish()
