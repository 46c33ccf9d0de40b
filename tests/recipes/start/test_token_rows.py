"""Rows of location and segmentation tokens: as they began, or trained."""

import random

import pytest
import torch
from PIL import Image
from tiny_adapters import save_checkpoint
from tiny_pali3 import KINDS, tiny_pali3

from openpali.data.tokenizer import train_tokenizer
from openpali.modeling.auto import load_answering, load_processor
from openpali.modeling.processing_tokenizer import LOCATION_TOKENS, SEGMENTATION_TOKENS
from openpali.recipes.stages.pretrain_start import order_locations
from openpali.recipes.start.token_rows import location_sines, tables_of, token_rows

WIDTHS = (16, 256)


def states(tokenizer, **tables):
    return {kind: (rows.state, rows.changed) for kind, rows in token_rows(tokenizer, tables).items()}


def ids_of(tokenizer, tokens):
    return tokenizer.convert_tokens_to_ids(tokens)


def random_table(tokenizer, width, std=1.0):
    return torch.randn(len(tokenizer), width, generator=torch.Generator().manual_seed(width)) * std


def around_the_mean(tokenizer, width):
    """As Transformers makes new rows: from a normal distribution with 1e-9 of the covariance."""
    table = random_table(tokenizer, width, 8.0)
    new = ids_of(tokenizer, [*LOCATION_TOKENS, *SEGMENTATION_TOKENS])
    table[new] = table.mean(dim=0) + table[new] * 1e-9**0.5
    return table


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", WIDTHS)
def test_rows_as_they_began_are_untrained(width, dtype, tiny_tokenizer):
    random_rows = random_table(tiny_tokenizer, width, 0.02)
    assert states(tiny_tokenizer, a=random_rows.to(dtype)) == {
        "location": ("untrained", None),
        "segmentation": ("untrained", None),
    }
    mean = around_the_mean(tiny_tokenizer, width)
    assert states(tiny_tokenizer, a=mean.to(dtype)) == {"location": ("untrained", 0), "segmentation": ("untrained", 0)}
    sines = random_rows.clone()
    sines[ids_of(tiny_tokenizer, LOCATION_TOKENS)] = location_sines(width) * width**-0.5
    assert states(tiny_tokenizer, a=sines.to(dtype))["location"] == ("untrained", 0)


@pytest.mark.parametrize("width", WIDTHS)
def test_decay_and_a_push_of_all_unused_rows_train_nothing(width, tiny_tokenizer):
    push = torch.full((width,), 0.05)
    for table in (random_table(tiny_tokenizer, width), around_the_mean(tiny_tokenizer, width)):
        assert states(tiny_tokenizer, a=table * 0.9 - push)["location"][0] == "untrained"
    sines = random_table(tiny_tokenizer, width)
    sines[ids_of(tiny_tokenizer, LOCATION_TOKENS)] = location_sines(width)
    assert states(tiny_tokenizer, a=sines * 0.9 - push)["location"] == ("untrained", 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("start", ["mean", "sines"])
def test_rows_that_moved_are_counted(start, dtype, tiny_tokenizer):
    table, ids = around_the_mean(tiny_tokenizer, 32), ids_of(tiny_tokenizer, LOCATION_TOKENS)
    if start == "sines":
        table[ids] = location_sines(32)
    # further than bfloat16 rounds
    table[ids[:300]] += 0.2 * torch.randn(300, 32, generator=torch.Generator().manual_seed(0))
    assert states(tiny_tokenizer, a=table.to(dtype))["location"] == ("trained", 300)
    table[ids] = table[ids[-1]].clone() if start == "mean" else location_sines(32)
    table[ids[:20]] += 1.0
    # few, as the spare rows of T5 that are new tokens now
    assert states(tiny_tokenizer, a=table.to(dtype))["location"] == ("untrained", 20)


def test_neighbours_that_are_alike_are_trained_and_every_table_counts(tiny_tokenizer):
    table = random_table(tiny_tokenizer, 64)
    learned = table.clone()
    learned[ids_of(tiny_tokenizer, LOCATION_TOKENS)] += 0.5 * location_sines(64)
    assert states(tiny_tokenizer, a=learned)["location"] == ("trained", None)
    found = token_rows(tiny_tokenizer, {"embedding": learned, "head": table})["location"]
    assert (found.state, found.reason) == ("untrained", "rows are random, independent values (head)")
    # large embeddings look random when they have moved, as those of the segmentation tokens of pali3-nano
    found = token_rows(tiny_tokenizer, {"embedding": table, "head": learned})["location"]
    assert (found.state, found.reason) == ("trained", "rows vary together")


def test_a_tokenizer_without_them_and_weights_that_are_not_there(tiny_tokenizer):
    plain = train_tokenizer(["a red dog"], vocab_size=270)
    assert token_rows(tiny_tokenizer, {})["location"].state == "unknown"

    class Words:
        def get_vocab(self):
            return {token: i for token, i in plain.get_vocab().items() if not token.startswith(("<loc", "<seg0"))}

    found = token_rows(Words(), {"a": torch.randn(2000, 8)})
    assert (found["location"].state, found["location"].tokens) == ("missing", 0)
    assert found["location"].reason == "the tokenizer has none of 1,024"
    assert found["segmentation"].reason == "the tokenizer has 28 of 128"


@pytest.mark.parametrize("kind", KINDS)
def test_tables_are_the_decoders(kind):
    model = tiny_pali3(kind)
    tables = tables_of(model)
    assert tables["embedding"] is model.get_decoder().get_input_embeddings().weight
    assert ("head" in tables) == (model.lm_head.weight is not tables["embedding"])


def train(model, processor, steps, answer):
    """Some steps of Adam on random images."""
    model.train()
    rng, optimizer = random.Random(0), torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    for _ in range(steps):
        images = [Image.new("RGB", (16, 16), (rng.randrange(256), 0, 0)) for _ in range(8)]
        suffixes = [answer(rng) for _ in images]
        batch = processor(images=images, text=["detect dog"] * 8, suffix=suffixes, return_tensors="pt", padding=True)
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def boxes(rng):
    return "".join(f"<loc{rng.randrange(1024):04d}>" for _ in range(4)) + " dog"


def words(rng):
    return " ".join(rng.choice(["a", "red", "dog", "cats"]) for _ in range(5))


@pytest.mark.parametrize("start", ["mean", "sines"])
def test_a_few_steps_train_the_rows_of_boxes_and_captions_do_not(start, tiny_tokenizer, tmp_path):
    folder = save_checkpoint("pali3", tiny_tokenizer, tmp_path)
    processor = load_processor(folder)
    for answer, state in ((words, "untrained"), (boxes, "trained")):
        model = load_answering(folder, dtype=torch.float32)
        if start == "sines":
            order_locations(model, processor.tokenizer)
        else:
            for table in tables_of(model).values():
                table.data = around_the_mean(processor.tokenizer, table.shape[1]) / 8
        train(model, processor, 20, answer)
        found = token_rows(processor.tokenizer, tables_of(model))
        assert found["location"].state == state, found
        assert (found["location"].changed == 0) == (state == "untrained")
        if start == "mean":
            assert found["segmentation"].state == "untrained"


def test_random_rows_of_a_tied_table_leave_the_unused_ones(tiny_tokenizer, tmp_path):
    folder = save_checkpoint("paligemma", tiny_tokenizer, tmp_path)
    processor = load_processor(folder)
    for answer, state in ((words, "untrained"), (boxes, "trained")):
        model = load_answering(folder, dtype=torch.float32)
        train(model, processor, 120, answer)
        found = token_rows(processor.tokenizer, tables_of(model))
        assert found["location"].state == state, found
        assert found["segmentation"].state == "untrained"
