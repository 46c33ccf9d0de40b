"""A warning before a fine-tuning whose answers are tokens that its start checkpoint lacks or never learned."""

import re
from typing import Any

from openpali.data.images.open_image import BadImage
from openpali.data.records import BadRecord
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.stages.transfer_tasks import TaskData
from openpali.recipes.start.token_rows import tables_of, token_rows

TOKEN = {"location": re.compile(r"<loc\d{4}>"), "segmentation": re.compile(r"<seg\d{3}>")}
# validation examples whose targets are looked at
LOOKED_AT = 16
REMEDY = (
    "Start from a checkpoint that was pretrained with boxes and masks, such as google/paligemma2-3b-pt-224, or nano"
    " for a trial."
)


def warn_of_untrained_tokens(
    tasks: dict[str, TaskData], model: Any, processor: Any, name: str, peft: str, run: RunArguments
) -> dict[str, str]:
    """Print one line for each task whose targets hold tokens that are missing or untrained.

    Args:
        tasks: with their data, by name.
        model: as loaded.
        processor: of the model.
        name: the checkpoint that the run starts from.
        peft: kind of adapters, which leave the rows of tokens as they are.
        run: its main process looks and prints.

    Returns:
        What is wrong, by task; empty where nothing is.
    """
    needed = {task: kinds_of(data) for task, data in tasks.items()} if run.process_index == 0 else {}
    if not any(needed.values()):
        return {}
    known, found = token_rows(processor.tokenizer, tables_of(model)), {}
    for task, kinds in needed.items():
        bad = {kind: known[kind] for kind in kinds if known[kind].state in ("missing", "untrained")}
        if not bad:
            continue
        states = " and ".join(f"{kind} tokens are {one.state} ({one.reason})" for kind, one in bad.items())
        found[task] = f"the {states} in {name}"
        frozen = "" if peft == "none" else f", and {peft} does not train their rows"
        run.say(f"Warning: {task} answers with tokens that the model does not know: {found[task]}{frozen}. {REMEDY}")
    return found


def kinds_of(data: TaskData) -> list[str]:
    """The kinds of special tokens in the first validation targets, up to one that cannot be read."""
    text = ""
    for index in range(min(LOOKED_AT, len(data.validation))):
        try:
            text += data.validation[index].suffix
        except (BadRecord, BadImage):
            # training and validation report it, and decide whether the run can go on
            break
    return [kind for kind, token in TOKEN.items() if token.search(text)]
