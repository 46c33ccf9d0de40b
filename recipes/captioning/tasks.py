"""What a captioner is trained to write: captions alone (CapPa), or captions, boxes and texts of boxes (LocCa).

One decoder has all tasks, in the prompts that PaLI models have for them: `caption en` stands in front of a caption,
`refer the left dog` in front of a box, `caption <loc0100>…` in front of the text of that box. Boxes are location
tokens. Without location tasks captions have no prompt.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from openpali.data.example import Example
from openpali.data.files.config import ConfigError, nearest
from openpali.data.mixture import TaskDataset
from openpali.data.sources import Source
from openpali.data.streaming.stream import StreamMixture
from openpali.data.tasks import Task
from openpali.data.tasks.caption import Caption
from openpali.data.tasks.grounded_caption import GroundedCaption
from openpali.data.tasks.refer import Refer
from openpali.recipes.captioning.batches import CaptionInputs, DrawnTask
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.run.datasets import make_dataset, mix_datasets, skip_log
from openpali.recipes.stages.mixture_log import EntryTask

CAPTION_PROMPT = "caption {language}"
LOCATION_TASKS = ("caption", "refer", "grounded_caption")


def check_shares(shares: dict[str, Any]) -> dict[str, float]:
    """The share of each location task. Raises ConfigError for another task, or a share that is no number from 0 up."""
    for name, share in shares.items():
        if name not in LOCATION_TASKS:
            known = ", ".join(LOCATION_TASKS)
            raise ConfigError(
                f"location_tasks: {name!r} is none of {known}{nearest(name, dict.fromkeys(LOCATION_TASKS))}"
            )
        if isinstance(share, bool) or not isinstance(share, int | float) or share < 0:
            raise ConfigError(f"location_tasks: the share of {name} is a number from 0 up, not {share!r}")
    if shares and not any(shares.values()):
        raise ConfigError("location_tasks: one share is above 0")
    return {name: float(share) for name, share in shares.items() if share}


def location_task(name: str, languages: Sequence[str]) -> Task:
    """One of `LOCATION_TASKS`; boxes have sentences and texts of the first language."""
    if name == "caption":
        return Caption(languages=tuple(languages))
    if name == "refer":
        return Refer(boxes_only=True, language=languages[0], prompt="refer {sentence}")
    return GroundedCaption(language=languages[0])


def mixed(tasks: dict[str, Task], shares: dict[str, float], source: Source, run: RunArguments) -> Any:
    """The mixture of several tasks on one source, for the whole run.

    Raises:
        ConfigError: the number of steps is not known.
    """
    if run.max_steps <= 0:
        raise ConfigError("max_steps is missing: a mixture of tasks has no epochs")
    datasets = {
        name: make_dataset(source, EntryTask(DrawnTask(task), number), run)
        for number, (name, task) in enumerate(tasks.items())
    }
    mixture = mix_datasets(datasets, dict(shares), run)
    assert isinstance(mixture, StreamMixture) or mixture.num_examples
    return mixture


def held_out_examples(tasks: dict[str, Task], source: Source, run: RunArguments) -> dict[str, list[Example]]:
    """The first validation examples of every task, `eval_limit` together.

    Raises:
        ConfigError: the records of the source do not suit a task.
    """
    found: dict[str, list[Example]] = {}
    for name, task in tasks.items():
        data = TaskDataset(source, task, run.seed, skip_log(run), split="validation")
        count = min(max(1, run.eval_limit // len(tasks)), len(data))
        try:
            found[name] = [data[i] for i in range(count)]
        except ValueError as error:
            raise ConfigError(f"source: {error}") from error
    return found


def report_cut(inputs: CaptionInputs, examples: Iterable[Example], run: RunArguments) -> None:
    """Print how many texts are longer than the decoder reads."""
    longest, most = [(inputs.length(example), example) for example in examples], inputs.tokens.text_length
    cut = [row for row in longest if row[0] > most]
    if cut:
        length, example = max(cut, key=lambda row: row[0])
        run.say(
            f"Warning: {len(cut)} of {len(longest)} validation texts are longer than text_length={most}"
            f" tokens and are cut; the longest has {length}: {(example.prefix + ' ' + example.suffix).strip()[:80]!r}"
        )
