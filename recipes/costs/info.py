"""What a checkpoint is: its shape, its parameters, its tokens and whether they are trained, the memory that it needs.

    openpali info outputs/located/located
    openpali info google/paligemma2-3b-pt-224 --json

It takes a folder of any family (PaLI-3, PaliGemma, SigLIP, a mask tokenizer, adapters), or a published name whose
files are in the cache of the Hub; no weights are downloaded or loaded. `--json` prints one JSON object.
"""

import argparse
import json
from collections.abc import Iterator, Sequence

from openpali.modeling.shipped import shipped
from openpali.recipes.costs.checkpoint_facts import COSTS, CheckpointFacts, checkpoint_facts
from openpali.recipes.costs.stage_costs import GB
from openpali.recipes.run.command_line import command

WIDTH = 22  # of the names of rows
TRAININGS = {"lora": "LoRA", "qlora": "QLoRA", "full": "full training"}


@command
def main(argv: list[str] | None = None) -> None:
    """Print the facts of a checkpoint."""
    parser = argparse.ArgumentParser(prog="openpali info", description="Say what a checkpoint is.")
    parser.add_argument("model", help="folder of a checkpoint or of adapters, a published name, or nano")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    facts = checkpoint_facts(shipped(args.model))
    print(json.dumps(facts.json(), indent=2) if args.json else "\n".join(lines(facts)))


def lines(facts: CheckpointFacts) -> Iterator[str]:
    """The printed facts."""
    text = f", with a text model of the type {facts.text_model}" if facts.text_model else ""
    yield row("architecture", f"{facts.architecture}, of the type {facts.model_type}{text}")
    if facts.adapters:
        yield row(
            "adapters", "{kind} of rank {rank}, on {base}, which the lines below are about".format(**facts.adapters)
        )
    yield row("on disk", types(facts))
    if facts.resolution:
        tokens = f", {facts.image_tokens:,} tokens an image" if facts.image_tokens else ""
        yield row("resolution", f"{facts.resolution} px{tokens}")
    elif facts.image_tokens:
        yield row("resolution", f"any aspect ratio, at most {facts.image_tokens:,} tokens an image")
    if facts.vocabulary:
        known = f", {facts.tokens:,} tokens in the tokenizer" if facts.tokens else ""
        yield row("vocabulary", f"{facts.vocabulary:,} rows{known}")
    yield from special_tokens(facts)
    yield from (row("parameters" if i == 0 else "", line) for i, line in enumerate(parameters(facts)))
    yield from (row("memory" if i == 0 else "", line) for i, line in enumerate(memory(facts)))


def row(name: str, text: str) -> str:
    """A line of a name and a text."""
    return f"{name:<{WIDTH}} {text}"


def types(facts: CheckpointFacts) -> str:
    """The types of the values on disk."""
    if not facts.dtypes:
        return "the weights are not here: they are not in safetensors files, or not downloaded"
    if len(facts.dtypes) == 1:
        return next(iter(facts.dtypes))
    return ", ".join(f"{name} ({values:,} values)" for name, values in facts.dtypes.items())


def special_tokens(facts: CheckpointFacts) -> Iterator[str]:
    """A line for each kind of special tokens."""
    for kind, known in facts.special_tokens.items():
        if kind == "image":
            yield row("<image>", "missing" if known["id"] is None else f"token {known['id']:,}")
        else:
            yield row(f"{kind} tokens", f"{known['state']}: {known['reason']}")


def parameters(facts: CheckpointFacts) -> Sequence[str]:
    """The number of parameters in all and of each component."""
    numbers = {"in all": facts.total} | facts.parameters
    return [f"{values:>15,}  {name}" for name, values in numbers.items()]


def memory(facts: CheckpointFacts) -> Iterator[str]:
    """Memory on one GPU for one example, and the command that says more."""
    for use, known in facts.memory.items():
        if use == "inference":
            yield f"{known / GB:6.1f} GB  inference, with weights in bfloat16"
        else:
            less = f" ({known['with_activation_checkpointing'] / GB:.1f} GB with activation checkpointing)"
            yield f"{known['bytes'] / GB:6.1f} GB  {TRAININGS[use]}, one example at a time{less}"
    if facts.memory_unknown:
        yield f"of adapters is not known: {facts.memory_unknown}"
    if facts.memory:
        yield f"more: openpali costs --model {facts.model} {' '.join(COSTS)} --peft lora"


if __name__ == "__main__":
    main()
