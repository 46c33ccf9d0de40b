"""Validation scores of captioners: the likelihood of true texts, what images add to it, names, and boxes."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import torch

from openpali.data.example import Example
from openpali.data.tasks import Task
from openpali.eval.scoring.boxes import box_ious
from openpali.modeling.captioner.modeling_captioner import Captioner
from openpali.recipes.captioning.batches import CaptionCollator

HIT_IOU = 0.5


@torch.no_grad()
def likelihoods(
    model: Captioner, examples: Sequence[Example], collator: CaptionCollator, batch_size: int
) -> dict[str, float]:
    """Losses of examples in causal mode, on their own images and on others'.

    Returns:
        `loss`; and `image_gain`, how much higher it is where each text is written about the next image of its batch.
        At 0 the decoder does not look at images. It is 0 for a single example.
    """
    own, other = [], []
    for batch in batches(model, examples, collator, batch_size):
        tokens = model.image_tokens(batch.pop("pixel_values"))
        own += model.decoder.example_losses(tokens, **batch).tolist()
        other += model.decoder.example_losses(tokens.roll(1, 0), **batch).tolist()
    return {"loss": fmean(own), "image_gain": fmean(other) - fmean(own)}


def batches(model: Captioner, examples: Sequence[Example], collator: CaptionCollator, batch_size: int) -> Any:
    """Batches of examples on the model's device."""
    for start in range(0, len(examples), batch_size):
        batch = collator(examples[start : start + batch_size])
        yield {key: value.to(model.device) for key, value in batch.items()}


def validation_scores(
    model: Captioner, held_out: dict[str, list[Example]], collator: CaptionCollator, batch_size: int
) -> dict[str, float]:
    """`likelihoods` of all examples, with several tasks also of each, and `log_likelihood`, the negative loss."""
    found = {name: likelihoods(model, examples, collator, batch_size) for name, examples in held_out.items()}
    sizes = {name: len(examples) for name, examples in held_out.items()}
    scores = {
        key: sum(found[name][key] * size for name, size in sizes.items()) / sum(sizes.values())
        for key in ("loss", "image_gain")
    }
    if len(found) > 1:
        scores |= {f"{key}_{name}": value for name, row in found.items() for key, value in row.items()}
    return {"log_likelihood": -scores["loss"]} | scores


@torch.no_grad()
def naming_accuracy(
    model: Captioner, examples: Sequence[Example], collator: CaptionCollator, batch_size: int
) -> dict[str, float]:
    """`naming_accuracy`: share of images whose most probable name, of all names, is one of the image's.

    Empty where examples have no names.
    """
    named = [example for example in examples if example.meta.get("names")]
    names = sorted({name for example in named for name in example.meta["names"]})
    if len(names) < 2:
        return {}
    labels = collator.inputs.tokens([""] * len(names), names)[0].to(model.device)
    found = []
    for batch in batches(model, named, collator, batch_size):
        found += model.score(batch["pixel_values"], labels).argmax(1).tolist()
    return {"naming_accuracy": fmean(names[i] in example.meta["names"] for i, example in zip(found, named))}


@torch.no_grad()
def box_accuracy(
    model: Captioner, task: Task, examples: Sequence[Example], collator: CaptionCollator
) -> dict[str, float]:
    """`box_accuracy`: share of expressions whose greedily decoded box has an IoU of 0.5 with the true one."""
    hits = []
    for example in examples:
        pixels = collator([example])["pixel_values"].to(model.device)
        prompt = torch.tensor([collator.inputs.tokens.ids(example.prefix, example.controls)], device=model.device)
        ids = model.generate_ids(pixels, prompt)[0].tolist()
        text = collator.inputs.tokens.tokenizer.decode(ids, skip_special_tokens=True)
        boxes = [row["box"] for row in task.prediction(text, example)]
        true = [[box.x0, box.y0, box.x1, box.y1] for box in example.boxes]
        hits.append(bool(boxes) and float(box_ious(boxes[:1], true).max()) >= HIT_IOU)
    return {"box_accuracy": fmean(hits)} if hits else {}
