"""One step of the tuning against its formula on the logits of both families; confidences of boxes."""

import copy
import random

import pytest
import torch
from PIL import Image
from tiny_naflex import FAMILIES

from openpali.data.collator import Collator
from openpali.data.example import Box, Example
from openpali.data.masks.objects import located
from openpali.data.tasks import load_task
from openpali.eval.answering.confidence import box_confidences
from openpali.eval.answering.decoding import Token
from openpali.modeling.location_tokens import (
    SURE,
    UNSURE,
    format_detections,
    parse_detections,
    with_confidences,
    without_confidences,
)
from openpali.recipes.rewards.arguments import RewardArguments, RewardRun
from openpali.recipes.rewards.parts import RewardParts
from openpali.recipes.rewards.sequences import ConfidenceTokens, PromptCollator
from openpali.recipes.rewards.tuning import Answers, RewardTuning

DOG, CAT = Box(0.0, 0.0, 0.5, 0.5, "dog"), Box(0.25, 0.25, 1.0, 1.0, "cat")
NEAR = Box(0.0, 0.0, 0.5, 0.4, "dog")


def written(*boxes):
    return format_detections(located(box) for box in boxes)


@pytest.fixture(params=["pali3", "paligemma", *(f"{family} with NaFlex" for family in FAMILIES)])
def parts_of_a_model(request):
    if "NaFlex" in request.param:
        return FAMILIES[request.param.split()[0]](copy.deepcopy(request.getfixturevalue("tiny_tokenizer")))
    if request.param == "pali3":
        return request.getfixturevalue("tiny_model"), request.getfixturevalue("tiny_processor")
    return request.getfixturevalue("tiny_paligemma")


def tuning(model, processor, folder, **options):
    task = load_task({"name": "detect", "confidence": True})
    args = RewardArguments(**{"samples": 2} | options)
    run = RewardRun(output_dir=str(folder), use_cpu=True)
    return RewardTuning(model, processor, task, RewardParts(task, {"match": 1.0}), args, run)


def log_p_of(model, processor, examples, answers):
    """Log-probabilities of all tokens at each place of each answer, by the model's own processor and logits."""
    suffixes = [processor.decode(tokens[:-1]) for tokens in answers]
    pairs = zip(examples, suffixes, strict=True)
    batch = Collator(processor)([Example("", "", one.images, one.prefix, suffix) for one, suffix in pairs])
    logits = model(**batch, output_logits=True).logits.log_softmax(-1)
    shift = 0 if model.config.is_encoder_decoder else 1
    rows = []
    for row, labels, tokens in zip(logits, batch["labels"], answers):
        places = (labels != -100).nonzero()[:, 0]
        assert labels[places].tolist() == tokens
        rows.append(row[places - shift])
    return rows


def test_the_loss_is_that_of_the_formula(parts_of_a_model, tmp_path, monkeypatch):
    model, processor = parts_of_a_model
    images = [Image.new("RGB", (20 * wide, 24), colour) for wide, colour in enumerate(("red", "lime"), 1)]
    prompts = ["detect", "detect dog"]
    examples = [Example(text, "detect", (one,), text, boxes=(DOG,)) for text, one in zip(prompts, images)]
    texts = [with_confidences(written(DOG)), with_confidences(written(NEAR, CAT), lambda: UNSURE), written(DOG), ""]
    end = processor.tokenizer.eos_token_id
    tokens = [[*processor.tokenizer(text, add_special_tokens=False)["input_ids"], end] for text in texts]
    rewards = [1.0, 0.25, 0.5, 0.0]
    one = tuning(model, processor, tmp_path, kl=0.5)
    monkeypatch.setattr(one, "sample", lambda *_: Answers(tokens, texts, {"reward": rewards}))
    start = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.05)
    side = None if model.config.is_encoder_decoder else "left"
    loss = one(model, PromptCollator(Collator(processor, generation=True, padding_side=side))(examples))

    every = [example for example in examples for _ in range(2)]
    ours, theirs = (log_p_of(each, processor, every, tokens) for each in (model, start))
    sure, unsure = processor.tokenizer.convert_tokens_to_ids([SURE, UNSURE])
    # of the boxes with a confidence: the overlap with the true box, 0 for the cat that is not asked for
    ious = [[1.0], [0.8, 0.0], [], []]
    expected = torch.zeros(())
    for i, (now, before, some) in enumerate(zip(ours, theirs, tokens)):
        confidences = [place for _, place in ConfidenceTokens(processor.tokenizer).found(some)]
        assert len(confidences) == len(ious[i])
        advantage = rewards[i] - rewards[i ^ 1]
        for place, token in enumerate(some):
            if place in confidences:
                iou = ious[i][confidences.index(place)]
                expected = expected - 0.3 * (iou * now[place, sure] + (1 - iou) * now[place, unsure])
            else:
                ratio = before[place, token] - now[place, token]
                expected = expected - advantage * now[place, token] + 0.5 * (ratio.exp() - ratio - 1)
    # overlaps of boxes in steps of 1/1023
    assert loss.item() == pytest.approx((expected / 4).item(), rel=2e-3)
    loss.backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    (expected / 4).backward()
    wanted = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    assert (gradient - wanted).norm() < 5e-3 * wanted.norm()


def test_sampling_depends_on_seed_step_and_example_alone(parts_of_a_model, tmp_path):
    model, processor = parts_of_a_model
    images = [Image.new("RGB", (20, 24), colour) for colour in ("red", "lime")]
    examples = [Example(str(i), "detect", (image,), "detect dog", boxes=(DOG,)) for i, image in enumerate(images)]
    side = None if model.config.is_encoder_decoder else "left"
    collator = PromptCollator(Collator(processor, generation=True, padding_side=side))

    def sampled(some, step):
        one, found = tuning(model, processor, tmp_path, confidence_weight=0), []
        one.step = step
        one.log.add = lambda batch, tokens: found.extend(tokens)  # pyright: ignore
        one(model, collator(some))
        return found

    both = sampled(examples, 3)
    assert both == sampled(examples[:1], 3) + sampled(examples[1:], 3)
    assert both[:2] != sampled(examples[:1], 4)
    assert both[0] != both[1]


def test_confidences_stand_behind_labels():
    text = with_confidences(written(DOG, CAT))
    assert text.count(SURE) == 2 + 2  # and two edges of the cat's box
    assert parse_detections(without_confidences(text)) == parse_detections(written(DOG, CAT))
    assert without_confidences(written(DOG, CAT)) == written(DOG, CAT)
    assert not parse_detections(text).boxes
    task = load_task({"name": "detect", "confidence": True})
    example = Example("1", "detect", (), "detect dog")
    record = {"id": "1", "image": Image.new("RGB", (8, 8)), "objects": [{"names": {"en": "dog"}, "box": DOG}]}
    targets = [task.example(record, random.Random(seed)) for seed in range(200)]
    ends = [target.suffix[-9:] for target in targets if target]
    # most boxes are sure, and some are not, so that the model knows how to go on behind either
    assert set(ends) == {SURE, UNSURE}
    assert 120 < ends.count(SURE) < 180
    assert [one["label"] for one in task.prediction(text, example)] == ["dog", "cat"]


def test_a_written_confidence_is_that_of_its_box():
    def tokens(box, sure, log_p):
        text = written(box)
        places = [Token(text[9 * i : 9 * i + 9], -1.0) for i in range(4)]
        return [*places, Token(" dog", -1.0), Token(sure, log_p), Token(" ;", -1.0), Token(" ", -1.0)]

    found = [{"box": [round(1023 * x) / 1023 for x in (b.x0, b.y0, b.x1, b.y1)], "label": "dog"} for b in (DOG, CAT)]
    log_p = torch.tensor([0.9, 0.8]).log().tolist()
    answer = tokens(DOG, SURE, log_p[0]) + tokens(CAT, UNSURE, log_p[1])
    assert box_confidences(answer, found) == pytest.approx([0.9, 0.2])
