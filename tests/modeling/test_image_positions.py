"""Positions of image tokens and the projector's start: options for short trainings, off as in the paper."""

import json

import pytest
import torch
from tiny_pali3 import IMAGE_TOKENS, KINDS, PATCH, SIDE, WIDTH, tiny_batch, tiny_config, tiny_pali3, without
from transformers import AutoModelForImageTextToText

import openpali
from openpali import Pali3ForConditionalGeneration
from openpali.modeling.modeling_pali3_encoder import sine_positions


@pytest.mark.parametrize(("rows", "columns", "width"), [(8, 8, 128), (1, 1, 4), (3, 5, 24), (16, 16, 768)])
def test_sines_have_unit_size_and_tell_every_cell_apart(rows, columns, width):
    table = sine_positions(rows, columns, width)
    assert table.shape == (rows * columns, width)
    assert torch.allclose(table.square().mean(1), torch.ones(rows * columns), atol=1e-5)
    distances = torch.cdist(table, table) + 9 * torch.eye(rows * columns)
    assert distances.min() > 0.1


def test_one_half_is_the_row_and_one_the_column():
    table = sine_positions(3, 5, 16).unflatten(0, (3, 5))
    assert torch.equal(table[:, 0, :8], table[:, 4, :8])
    assert torch.equal(table[0, :, 8:], table[2, :, 8:])
    assert not torch.equal(table[0, 0, :8], table[1, 0, :8])
    # the slowest sine runs through half a period, taken in the middle of the cells
    assert table[0, :, 8].tolist() == pytest.approx([2**0.5 * torch.sin(torch.tensor(x * torch.pi / 2)).item()
                                                     for x in (0.1, 0.3, 0.5, 0.7, 0.9)])  # fmt: skip


def test_a_width_that_four_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="4 divides, not 30"):
        sine_positions(2, 2, 30)


@pytest.mark.parametrize("kind", KINDS)
def test_positions_are_added_behind_the_projector(kind):
    plain, placed = tiny_pali3(kind), tiny_pali3(kind, image_positions="sine")
    placed.load_state_dict(plain.state_dict())
    pixels = tiny_batch()["pixel_values"]
    with torch.no_grad():
        added = placed.get_image_features(pixels).pooler_output - plain.get_image_features(pixels).pooler_output
    assert added.shape == (2, IMAGE_TOKENS, WIDTH)
    expected = sine_positions(SIDE // PATCH, SIDE // PATCH, WIDTH)
    assert torch.allclose(added, expected.expand_as(added), atol=1e-5)


def test_only_with_positions_does_the_order_of_image_tokens_count_for_the_text_encoder():
    for kind, option, same in (("t5", "none", True), ("t5", "sine", False)):
        # without relative attention between them nothing else tells image tokens apart
        model = tiny_pali3(kind, image_positions=option)
        bias = model.model.encoder.text_encoder.block[0].layer[0].SelfAttention.relative_attention_bias
        torch.nn.init.zeros_(bias.weight)
        batch = tiny_batch()
        seen = []
        for flip in (False, True):
            tower = model.model.encoder.vision_tower
            hook = tower.register_forward_hook(lambda m, i, o, flip=flip: reverse(o) if flip else None)
            with torch.no_grad():
                seen.append(model(**without(batch, "labels"), decoder_input_ids=batch["input_ids"][:, -3:]).logits)
            hook.remove()
        assert torch.allclose(*seen, atol=1e-5) == same


def reverse(outputs):
    outputs.last_hidden_state = outputs.last_hidden_state.flip(1)
    return outputs


@pytest.mark.parametrize("projector", ["linear", "mlp"])
def test_a_normal_start_keeps_the_size_of_the_inputs(projector):
    torch.manual_seed(0)
    fields = {"projector": projector, "projector_init": "normal"}
    model: Pali3ForConditionalGeneration = Pali3ForConditionalGeneration(tiny_config("t5", **fields))
    output = model.model.encoder.projector.output
    assert output.weight.std().item() == pytest.approx(output.in_features**-0.5, rel=0.1)
    assert not output.bias.any()


def test_both_are_off_unless_asked_for():
    config = tiny_config("t5")
    assert (config.image_positions, config.projector_init) == ("none", "zeros")


@pytest.mark.parametrize("field", ["image_positions", "projector_init"])
def test_other_values_are_refused(field):
    with pytest.raises(ValueError, match=f"{field} must be .* not 'rotary'"):
        tiny_config("t5", **{field: "rotary"})


def test_a_saved_and_an_exported_model_keep_them(tiny_processor, tmp_path):
    model = tiny_pali3("t5", image_positions="sine", projector_init="normal")
    batch = without(tiny_batch(), "labels")
    answer = model.generate(**batch, max_new_tokens=4)
    openpali.export(model, tiny_processor, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["image_positions"] == "sine"
    again = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert torch.equal(again.generate(**batch, max_new_tokens=4), answer)
    assert "def sine_positions" in (tmp_path / "modeling_pali3_encoder.py").read_text()
