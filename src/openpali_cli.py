"""The `openpali` command: a table of verbs, each of which imports its module when it is called.

It stands beside the package because importing the package imports torch, which takes seconds.
"""

import sys
from importlib import import_module
from importlib.metadata import version

# title: verb: (module whose main(argv) it calls, help), in the order in which a user needs them
GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "Use a model": {
        "predict": ("openpali.eval.predict", "answer prompts about images and clips; draw boxes and masks"),
        "demo": ("openpali.eval.web_demo", "the same on a web page of this machine"),
        "eval": ("openpali.eval.run", "score checkpoints on a task, side by side, and write a report"),
        "encoders": ("openpali.eval.encoders", "evaluate image encoders: retrieval, zero-shot, linear probe"),
        "info": ("openpali.recipes.costs.info", "what a checkpoint is: parameters, tokens, memory"),
        "export": ("openpali.modeling.export", "write a checkpoint folder that runs without openpali"),
    },
    "Train a model": {
        "transfer": ("openpali.recipes.transfer", "stage 3: fine-tune a checkpoint on a task or on custom data"),
        "reward": ("openpali.recipes.reward", "tune a fine-tuned checkpoint on its task's own metric"),
        "merge": ("openpali.scripts.merge_adapter", "merge trained adapters into their base checkpoint"),
        "push": ("openpali.recipes.publishing.push", "upload a run to the Hub, with a model card"),
        "costs": ("openpali.recipes.costs.command", "memory, FLOPs and GPUs that a training needs"),
        "contrastive": ("openpali.recipes.contrastive", "stage 0: an image encoder from image-text pairs (SigLIP)"),
        "siglip2": ("openpali.recipes.siglip2", "stage 0: the same by SigLIP 2's recipe, with self-distillation"),
        "classification": (
            "openpali.recipes.classification",
            "stage 0: the same from class names, a baseline",
        ),
        "captioner": ("openpali.recipes.captioner", "stage 0: the same from captions, by a decoder (CapPa, LocCa)"),
        "denoise": ("openpali.recipes.denoise", "stage 0: a text encoder-decoder from texts (UL2)"),
        "dense": ("openpali.recipes.dense", "stage 0b: an image encoder from objects, patch by patch"),
        "pretrain": ("openpali.recipes.pretrain", "stages 1 and 2: the multimodal mixture at rising resolution"),
        "mask_vqvae": ("openpali.recipes.mask_vqvae", "the mask tokenizer behind segmentation tokens"),
    },
    "Tar shards and conversion": {
        "web": ("openpali.scripts.web.command", "filter, deduplicate and label raw image-text shards, on Ray"),
        "convert": ("openpali.scripts.convert_big_vision", "convert a big_vision .npz checkpoint into a folder"),
    },
}
VERBS = {verb: entry for group in GROUPS.values() for verb, entry in group.items()}


def usage() -> str:
    """The verbs by group."""
    blocks = ["usage: openpali VERB [options]"]
    for title, group in GROUPS.items():
        blocks.append("\n".join([f"{title}:", *(f"  {verb:<15} {text}" for verb, (_, text) in group.items())]))
    return "\n\n".join([*blocks, "`openpali VERB --help` lists the options of a verb."])


def main(argv: list[str] | None = None) -> int:
    """Run one verb; without a verb, or with an unknown one, print the table.

    Returns:
        Exit status: 0, 2 when the verb is unknown, 1 when its libraries are missing, 130 when interrupted.
    """
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    verb, *rest = arguments
    if verb in ("-V", "--version"):
        print(version("openpali"))
        return 0
    if verb not in VERBS:
        print(f"openpali: no verb {verb!r}\n\n{usage()}", file=sys.stderr)
        return 2
    try:
        # the import takes seconds, in which a user may interrupt; the verb's own `main` handles later interrupts
        module = import_module(VERBS[verb][0])
    except ImportError as error:
        print(f"openpali {verb}: {error}: install openpali again, or the missing package", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"openpali {verb}: interrupted", file=sys.stderr)
        return 130
    module.main(rest)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
