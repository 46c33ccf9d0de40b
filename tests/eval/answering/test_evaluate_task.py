import copy
import random
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import MODELS, NamingTask, examples, tiny_pali3, tiny_paligemma

from openpali.data.example import Box, Example
from openpali.eval.answering.decoding import GREY, Answer, encode, generate
from openpali.eval.answering.evaluate_task import evaluate_task


@pytest.fixture(scope="module", params=MODELS)
def tiny(request):
    return MODELS[request.param]()


def test_batches_answer_as_single_examples_do_and_in_order(tiny):
    """Padding, sorting by length and cutting the prompt off must not change any answer."""
    model, processor = tiny
    data = examples()
    together = generate(model, processor, data, batch_size=3, max_new_tokens=6, progress=False)
    alone = [generate(model, processor, [one], 1, 6, progress=False)[0] for one in data]
    assert together == alone
    assert len(set(alone)) > 3


def test_answers_do_not_hold_the_prompt():
    model, processor = tiny_paligemma()
    inputs = encode(model, processor, examples(1), blank_images=False)
    ids = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    new = processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert generate(model, processor, examples(1), 1, 6, progress=False) == [new[0].strip()]


def test_decoder_only_prompts_are_padded_to_the_left():
    model, processor = tiny_paligemma()
    inputs = encode(model, processor, examples(), blank_images=False)
    assert inputs["attention_mask"][:, -1].all()
    assert not inputs["attention_mask"][:, 0].all()
    assert "labels" not in inputs


def test_blank_images_are_grey_and_of_the_same_number(tiny):
    model, processor = tiny
    blank = encode(model, processor, examples(3), blank_images=True)
    seen = encode(model, processor, examples(3), blank_images=False)
    assert blank["pixel_values"].shape == seen["pixel_values"].shape
    assert torch.equal(blank["input_ids"], seen["input_ids"])
    assert (blank["pixel_values"][0] == blank["pixel_values"][1]).all()
    grey = examples(1)[0].images[0].copy()
    grey.paste(GREY, (0, 0, *grey.size))
    one = Example("x", "naming", (grey,), "what")
    assert torch.equal(encode(model, processor, [one], False)["pixel_values"][0], blank["pixel_values"][0])


def test_blank_images_change_the_answers(tiny):
    model, processor = tiny
    seen = generate(model, processor, examples(), 4, 6, progress=False)
    assert generate(model, processor, examples(), 4, 6, blank_images=True, progress=False) != seen


def test_several_images_of_one_example():
    for make in (tiny_paligemma, tiny_pali3):
        model, processor = make()
        data = examples(3)
        data[1] = Example("two", "naming", (data[1].images[0], data[2].images[0]), "what is this")
        together = generate(model, processor, data, 3, 6, progress=False)
        assert together[1] == generate(model, processor, data[1:2], 1, 6, progress=False)[0]


def test_result_has_a_scored_row_for_each_example(tiny):
    model, processor = tiny
    data = examples()
    texts = generate(model, processor, data, 3, 6, progress=False)
    data[2] = copy.copy(data[2])
    object.__setattr__(data[2], "references", (texts[2],))
    result = evaluate_task(model, processor, data, NamingTask(), batch_size=3, progress=False)
    assert result.metrics == {"exact_match": 1 / 8, "examples": 8.0}
    assert result.score == 1 / 8
    assert [row["id"] for row in result.predictions] == [one.id for one in data]
    assert [row["text"] for row in result.predictions] == texts
    assert [row["score"] for row in result.predictions] == [0, 0, 1, 0, 0, 0, 0, 0]
    assert result.predictions[0]["boxes"] == [{"box": [0.1, 0.2, 0.5, 0.6], "label": "dog"}]


def test_beams_are_used():
    model, processor = tiny_pali3()
    beams = generate(model, processor, examples(), 8, 6, num_beams=4, progress=False)
    assert beams != generate(model, processor, examples(), 8, 6, progress=False)


def test_a_repeated_example_counts_once_and_the_limit_counts_different_ones():
    model, processor = tiny_pali3()
    first, second, third, fourth = examples(4)
    data = [first, first, second, third, third, fourth]
    result = evaluate_task(model, processor, data, NamingTask(), limit=3, progress=False)
    assert [(row["id"], row["index"]) for row in result.predictions] == [("id-0", 0), ("id-1", 2), ("id-2", 3)]


def test_windows_do_not_change_anything(monkeypatch):
    model, processor = tiny_pali3()
    whole = evaluate_task(model, processor, examples(), NamingTask(), batch_size=2, progress=False)
    monkeypatch.setattr("openpali.eval.answering.predictions.WINDOW", 1)
    parts = evaluate_task(model, processor, examples(), NamingTask(), batch_size=2, progress=False)
    assert parts == whole


def test_nothing_to_evaluate_is_an_error():
    model, processor = tiny_pali3()
    with pytest.raises(ValueError, match="nothing to evaluate on the task naming"):
        evaluate_task(model, processor, [], NamingTask(), progress=False)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_training_goes_on_as_if_there_had_been_no_evaluation(make):
    """Modes, random states, gradients and the next step's loss are those of a run without it."""

    def train(evaluated: bool):
        model, processor = make()
        model.train()
        frozen = next(m for name, m in model.named_modules() if name.endswith("vision_tower"))
        frozen.eval()
        inputs = encode(model, processor, examples(2), blank_images=False)
        extra = {} if model.config.is_encoder_decoder else {"token_type_ids": torch.ones_like(inputs["input_ids"])}
        inputs.pop("token_type_ids", None)
        extra = extra if model.config.model_type == "paligemma" else {}
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        losses = []
        for step in range(2):
            loss = model(**inputs, **extra, labels=inputs["input_ids"]).loss
            optimizer.zero_grad()
            loss.backward()
            if evaluated and step == 0:
                evaluate_task(model, processor, examples(), NamingTask(), progress=False)
            optimizer.step()
            losses.append(loss.item())
        modes = [module.training for module in model.modules()]
        drawn = torch.rand(3).tolist(), random.random(), np.random.random()  # noqa: NPY002
        return losses, modes, frozen.training, drawn

    assert train(evaluated=True) == train(evaluated=False)


@dataclass(frozen=True)
class BoxTask(NamingTask):
    """A task whose predictions are boxes."""

    metric: str = "detection"
    metric_key: str = "f1"

    def prediction(self, text, example):
        return list(example.boxes) + [Box(0.7, 0.7, 0.9, 0.9, "cat")]

    def reference(self, example):
        return list(example.boxes)


def test_boxes_go_to_the_metric_and_into_the_rows():
    model, processor = tiny_pali3()
    result = evaluate_task(model, processor, examples(3), BoxTask(), progress=False)
    assert (result.metrics["precision"], result.metrics["recall"]) == (0.5, 1.0)
    predicted = result.predictions[0]["predicted_boxes"]
    assert predicted[1] == {"box": [0.7, 0.7, 0.9, 0.9], "label": "cat"}
    assert result.predictions[0]["score"] == pytest.approx(2 / 3)


class Interrupted(Exception):
    pass


class Store:
    """Keeps rows, and stops the run after some."""

    def __init__(self, done, stop=10**9):
        self.done, self.rows, self.stop = done, [], stop

    def write(self, row):
        if len(self.rows) == self.stop:
            raise Interrupted
        self.rows.append(row)


def test_an_interrupted_evaluation_goes_on():
    model, processor = tiny_pali3()
    model.train()
    whole = evaluate_task(model, processor, examples(), NamingTask(), batch_size=2, progress=False)
    first = Store({}, stop=3)
    with pytest.raises(Interrupted):
        evaluate_task(model, processor, examples(), NamingTask(), batch_size=2, progress=False, store=first)
    assert model.training
    second = Store({row["id"]: Answer(row["text"]) for row in first.rows})
    rest = evaluate_task(model, processor, examples(), NamingTask(), batch_size=2, progress=False, store=second)
    assert rest == whole
    assert len(first.rows) + len(second.rows) == 8


def test_prefix_with_placed_images_is_left_alone():
    model, processor = tiny_pali3()
    image = Image.new("RGB", (SIDE := 16, SIDE), "red")
    placed = Example("a", "naming", (image,), "what <image> is", controls="all")
    ids = encode(model, processor, [placed], False)["input_ids"][0].tolist()
    assert ids.count(processor.image_token_id) == 4
    assert ids[0] != processor.image_token_id
