"""The `openpali` command: one door per verb, opened only when it is called.

It stands beside the package because importing the package imports torch, and help must not wait for that.
"""

import sys
from importlib import import_module
from importlib.metadata import version

# verb: (module whose main(argv) it calls, help)
VERBS = {
    "predict": ("openpali.eval.predict", "answer a prompt about an image and draw its boxes and masks"),
    "transfer": ("openpali.recipes.transfer", "fine-tune a checkpoint on a task or on your own data"),
    "eval": ("openpali.eval.run", "score checkpoints on a task, side by side, and write the report"),
    "encoders": ("openpali.eval.encoders", "measure image encoders: retrieval, zero-shot, linear probe"),
    "costs": ("openpali.recipes.costs.command", "memory, FLOPs and GPUs that a training needs"),
    "merge": ("openpali.scripts.merge_adapter", "turn adapters and their base into one whole checkpoint"),
    "convert": ("openpali.scripts.convert_big_vision", "turn a big_vision .npz checkpoint into a folder"),
    "export": ("openpali.modeling.export", "write a checkpoint folder that runs without openpali"),
    # the stages before a transfer, in their order
    "contrastive": ("openpali.recipes.contrastive", "stage 0: an image encoder from images and texts (SigLIP)"),
    "classification": ("openpali.recipes.classification", "stage 0: an image encoder from class names, to compare"),
    "denoise": ("openpali.recipes.denoise", "stage 0: a text encoder-decoder from texts (UL2)"),
    "dense": ("openpali.recipes.dense", "stage 0b: image tokens that know what they show"),
    "pretrain": ("openpali.recipes.pretrain", "stages 1 and 2: the multimodal mixture, at rising resolution"),
    "mask_vqvae": ("openpali.recipes.mask_vqvae", "the mask tokenizer behind segmentation tokens"),
    # tar shards
    "filter_pairs": ("openpali.scripts.filter_pairs", "keep the best share of image-text pairs"),
    "deduplicate": ("openpali.scripts.deduplicate", "remove duplicates of evaluation images"),
}


def usage() -> str:
    """The table of verbs."""
    rows = "\n".join(f"  {verb:<15} {text}" for verb, (_, text) in VERBS.items())
    return f"usage: openpali VERB [options]\n\n{rows}\n\n`openpali VERB --help` tells the options of a verb."


def main(argv: list[str] | None = None) -> int:
    """Run one verb; without one, or with an unknown one, print the table.

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
        # takes seconds, in which one may think better of it; `main` sees to what goes wrong later
        module = import_module(VERBS[verb][0])
    except ImportError as error:
        print(f"openpali {verb}: {error}: install openpali anew, or what it lacks", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"openpali {verb}: interrupted", file=sys.stderr)
        return 130
    module.main(rest)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
