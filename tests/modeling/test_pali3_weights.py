"""PaLI-3's weights: saved, loaded, tied, new, and resized with the vocabulary."""

from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_pali3 import KINDS, VOCABULARY, WIDTH, logits_of, tiny_batch, tiny_config, tiny_pali3, without
from tolerances import assert_same_but_rounding

from openpali import Pali3ForConditionalGeneration
from openpali.modeling.modeling_pali3 import Pali3Model

# tables with one row per token in the file: T5 shares encoder's and decoder's, T5Gemma has two
TABLES = {"t5": 2, "t5_tied": 1, "umt5": 1, "t5gemma": 2}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def model(kind):
    return tiny_pali3(kind)


def load(cls, folder, **options) -> Any:
    return cls.from_pretrained(folder, **options)


def test_saved_and_loaded_is_the_same_model(model, kind, tmp_path):
    model.save_pretrained(tmp_path)
    loaded, info = load(Pali3ForConditionalGeneration, tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    assert_same_but_rounding(logits_of(loaded), logits_of(model))
    for name in ("projector", "image_token_id", "tie_word_embeddings", "scale_decoder_outputs", "eos_token_id"):
        assert getattr(loaded.config, name) == getattr(model.config, name)


def test_tied_weights_are_written_once_and_stay_tied(model, kind, tmp_path):
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert sum(tensor.shape[0] == VOCABULARY for tensor in tensors.values()) == TABLES[kind]
    loaded = Pali3ForConditionalGeneration.from_pretrained(tmp_path)
    for each in (model, loaded):
        tables = [each.get_input_embeddings(), each.get_decoder().get_input_embeddings(), each.lm_head]
        assert len({id(table.weight) for table in tables}) == TABLES[kind]
        assert (tables[2].weight is tables[1].weight) == (kind != "t5")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_loads_in_half_precision(model, kind, dtype, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = load(Pali3ForConditionalGeneration, tmp_path, dtype=dtype)
    images = tiny_batch()["pixel_values"].to(dtype)
    assert loaded.lm_head.weight.dtype == loaded.get_image_features(images).pooler_output.dtype == dtype
    logits = logits_of(loaded, pixel_values=images).float()
    reference = logits_of(model)
    assert (logits - reference).norm() < 0.1 * reference.norm()


def test_a_model_without_head_loads_from_the_same_folder(model, tmp_path):
    model.save_pretrained(tmp_path)
    base, info = load(Pali3Model, tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    batch = without(tiny_batch(), "labels")
    with torch.no_grad():
        assert_same_but_rounding(base(**batch).last_hidden_state, model.model(**batch).last_hidden_state)


def test_weights_missing_in_a_checkpoint_are_initialised_like_new_ones(kind):
    """They come from uninitialised memory, so whatever no module initialises shows here."""
    torch.manual_seed(0)
    new = Pali3ForConditionalGeneration(tiny_config(kind, projector="mlp"))
    config = tiny_config(kind, projector="mlp")
    missing = Pali3ForConditionalGeneration.from_pretrained(None, config=config, state_dict={})
    for (name, one), other in zip(new.named_parameters(), missing.parameters(), strict=True):
        if one.unique().numel() == 1:
            assert torch.equal(one, other), name
        else:
            assert 0.4 < one.std() / other.std() < 2.5, name


@pytest.mark.parametrize("rows", [80, 62])
def test_resizing_changes_every_table_and_keeps_the_old_rows(kind, rows, tmp_path):
    model = tiny_pali3(kind)
    kept = min(rows, VOCABULARY)
    before = logits_of(model)
    model.resize_token_embeddings(rows)
    tables = [model.get_input_embeddings(), model.get_decoder().get_input_embeddings(), model.lm_head]
    assert [table.weight.shape[0] for table in tables] == [rows] * 3
    assert len({id(table.weight) for table in tables}) == TABLES[kind]
    assert model.config.get_text_config().vocab_size == rows
    after = logits_of(model)
    assert after.shape[-1] == rows
    torch.testing.assert_close(after[..., :kept], before[..., :kept], rtol=1e-5, atol=1e-5)
    model.save_pretrained(tmp_path)
    assert_same_but_rounding(logits_of(Pali3ForConditionalGeneration.from_pretrained(tmp_path)), after)
    assert model(**tiny_batch()).loss.isfinite()


def test_resizing_rounds_up(kind):
    model = tiny_pali3(kind)
    assert model.resize_token_embeddings(65, pad_to_multiple_of=16).num_embeddings == 80
    assert model.lm_head.weight.shape[0] == model.get_decoder().get_input_embeddings().weight.shape[0] == 80


def test_replaced_tables_are_used(model, kind):
    table = torch.nn.Embedding(VOCABULARY, WIDTH)
    model.set_input_embeddings(table)
    assert model.get_input_embeddings() is table
    assert (model.get_decoder().get_input_embeddings() is table) == (kind != "t5gemma")
