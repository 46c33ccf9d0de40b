import copy
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_paligemma import IMAGE_TOKENS, IMAGES, PREFIXES, SUFFIXES, tiny_batch, tiny_paligemma_processor, with_bos
from tokenizers import Tokenizer, models, normalizers
from transformers import PreTrainedTokenizerFast
from transformers.models.paligemma.processing_paligemma import PaliGemmaProcessor as StockProcessor

from openpali.modeling.processing_paligemma import PaliGemmaProcessor
from openpali.modeling.processing_tokenizer import LOCATION_TOKENS, SEGMENTATION_TOKENS

FIXTURES = Path(__file__).parents[1] / "fixtures"
RED = Image.new("RGB", (20, 20), "red")


@pytest.fixture
def processor(tiny_tokenizer):
    return tiny_paligemma_processor(tiny_tokenizer)


@pytest.fixture(scope="module")
def reference():
    return np.load(FIXTURES / "tokenize_masks.npz")


@pytest.fixture(scope="module")
def reference_tokenizer(reference):
    """The SentencePiece BPE of the reference's cases as a tokenizer of Transformers."""
    import sentencepiece

    toy = sentencepiece.SentencePieceProcessor(model_proto=reference["sp_model_bytes"].tobytes())
    ids = {toy.id_to_piece(i): i for i in range(toy.get_piece_size())}
    halves = [(piece[:cut], piece[cut:]) for piece in ids for cut in range(1, len(piece))]
    merges = [pair for pair in halves if pair[0] in ids and pair[1] in ids]
    tokenizer = Tokenizer(models.BPE(ids, merges, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.add_tokens(LOCATION_TOKENS + SEGMENTATION_TOKENS)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", bos_token="<s>")


@pytest.mark.parametrize("length", [8, 16, 32])
@pytest.mark.parametrize("case", [0, 1, 2])
def test_layout_is_the_references(reference, reference_tokenizer, case, length, tiny_tokenizer):
    """Ids, attention and loss masks of the training sequence, wherever the reference does not cut into the prefix."""
    prefix, suffix = json.loads(str(reference["meta_json"]))["cases"][case]
    image_processor = tiny_paligemma_processor(tiny_tokenizer).image_processor
    processor = PaliGemmaProcessor(image_processor, copy.deepcopy(reference_tokenizer))
    expected = {name: reference[f"case{case}/len{length}/train/{name}"] for name in ("text", "mask_ar", "mask_loss")}
    prompt_length = int((reference[f"case{case}/len32/eval/mask_input"]).sum())
    limit = max(1, length + 1 - prompt_length)
    made = processor(text=prefix, suffix=suffix, suffix_max_length=limit, padding=False)
    ids, types, labels = (made[name][0] for name in ("input_ids", "token_type_ids", "labels"))
    if prompt_length > length:
        # the reference drops suffix and separator without a word; here the prefix has a limit of its own
        assert ids[: length + 1] == expected["text"].tolist()
        assert not expected["mask_loss"].any()
        return
    pad = length + 1 - len(ids)
    assert ids + [0] * pad == expected["text"].tolist()
    # the reference counts padding as causal
    assert types + [1] * pad == expected["mask_ar"].tolist()
    assert [int(label != -100) for label in labels] + [0] * pad == expected["mask_loss"].tolist()
    prompt = processor(text=prefix, padding=False)["input_ids"][0]
    known = reference[f"case{case}/len32/eval/mask_input"].astype(bool)
    assert prompt == reference[f"case{case}/len32/eval/text"][known].tolist()


def test_a_training_batch(processor):
    batch = tiny_batch(processor)
    begin, end, separator = processor.tokenizer.bos_token_id, 1, processor.encode("\n")
    for row in range(len(PREFIXES)):
        real = batch["attention_mask"][row].bool()
        ids = batch["input_ids"][row][real].tolist()
        prefix, suffix = processor.encode(PREFIXES[row]), processor.encode(SUFFIXES[row])
        prompt = [processor.image_token_id] * IMAGE_TOKENS + [begin, *prefix, *separator]
        assert ids == [*prompt, *suffix, end]
        assert batch["token_type_ids"][row][real].tolist() == [0] * len(prompt) + [1] * (len(suffix) + 1)
        assert batch["labels"][row][real].tolist() == [-100] * len(prompt) + [*suffix, end]
        # padding is on the right and never supervised
        assert real.tolist() == sorted(real.tolist(), reverse=True)
        assert (batch["labels"][row][~real] == -100).all()


def test_prompts_are_padded_on_the_left_and_have_no_labels(processor):
    batch = processor(images=IMAGES, text=PREFIXES, return_tensors="pt")
    assert "labels" not in batch
    assert batch["attention_mask"][:, -1].all()
    assert not batch["attention_mask"][2, 0]
    assert not batch["token_type_ids"].any()


def test_nothing_joins_the_separator(tiny_tokenizer):
    tokenizer = with_bos(tiny_tokenizer)
    tokenizer.add_tokens(["\n\n"])
    processor = tiny_paligemma_processor(tokenizer)
    assert len(processor.encode("\n\n")) == 1
    newline = processor.encode("\n")[0]
    ids = processor(images=[RED], text=["caption en\n"], suffix=["\na"], padding=False)["input_ids"][0]
    assert ids[-5:-2] == [newline] * 3


def test_a_suffix_that_is_cut_and_a_prefix_that_is_cut_are_told_and_counted(processor, caplog):
    with caplog.at_level(logging.WARNING):
        batch = processor(
            images=IMAGES[:2],
            text=PREFIXES[:2],
            suffix=SUFFIXES[:2],
            max_length=4,
            suffix_max_length=3,
            return_tensors="pt",
        )
    assert processor.truncation_counts == {"prefix": 1, "suffix": 2}
    assert sum("was cut to the limit" in record.message for record in caplog.records) == 2
    separator = processor.encode("\n")[0]
    first = batch["input_ids"][0].tolist()
    # begin, two words, separator: the separator is never lost
    assert first[IMAGE_TOKENS + 3] == separator
    assert (batch["labels"] != -100).sum(1).tolist() == [3, 3]


def test_ablations_of_attention_and_loss(tiny_tokenizer):
    for attention, images, words in (("full", 0, 0), ("causal", 0, 1), ("causal_all", 1, 1)):
        processor = tiny_paligemma_processor(tiny_tokenizer, prefix_attention=attention)
        batch = tiny_batch(processor)
        prompt = (batch["labels"] == -100) & batch["attention_mask"].bool()
        is_image = batch["input_ids"] == processor.image_token_id
        assert set(batch["token_type_ids"][prompt & is_image].tolist()) == {images}
        assert set(batch["token_type_ids"][prompt & ~is_image].tolist()) == {words}
        assert batch["token_type_ids"][batch["labels"] != -100].all()
        prompt = processor(images=IMAGES, text=PREFIXES, return_tensors="pt")
        assert set(prompt["token_type_ids"][prompt["input_ids"] == processor.image_token_id].tolist()) == {images}


def test_loss_on_the_prefix_too(processor):
    batch = tiny_batch(processor, loss_on_prefix=True)
    for ids, labels, real in zip(batch["input_ids"], batch["labels"], batch["attention_mask"].bool()):
        silent = IMAGE_TOKENS + 1
        assert labels[:silent].tolist() == [-100] * silent
        assert labels[silent:][real[silent:]].tolist() == ids[silent:][real[silent:]].tolist()
        assert (labels[~real] == -100).all()


def test_an_unknown_attention_is_refused(tiny_tokenizer):
    processor = tiny_paligemma_processor(tiny_tokenizer, prefix_attention="causal_prefix")
    with pytest.raises(ValueError, match="'causal_prefix'"):
        tiny_batch(processor)


def test_marked_and_unmarked_images_are_the_same(processor):
    plain = processor(images=[RED, RED], text="what is this", padding=False)
    marked = processor(images=[RED, RED], text="<image><image>what is this", padding=False)
    assert plain["input_ids"] == marked["input_ids"]
    with pytest.raises(ValueError, match="1 <image> placeholders but 2 images"):
        processor(images=[RED, RED], text="<image>what is this")


def test_numbers_that_do_not_fit(processor):
    with pytest.raises(ValueError, match="1 texts but 2 suffixes"):
        processor(images=[RED], text=["a"], suffix=["a", "b"])
    with pytest.raises(ValueError, match="2 texts but images for 1"):
        processor(images=[RED], text=["a", "b"])


def test_it_reads_and_writes_the_stock_files(processor, tmp_path):
    processor.prefix_attention = "causal"
    processor.save_pretrained(tmp_path)
    loaded = PaliGemmaProcessor.from_pretrained(tmp_path)
    assert loaded.prefix_attention == "causal"
    for name, value in tiny_batch(loaded).items():
        assert torch.equal(value, tiny_batch(processor)[name]), name
    stock = StockProcessor.from_pretrained(tmp_path)
    theirs = stock(images=[RED], text=["<image>what is this"], return_tensors="pt")
    ours = processor(images=[RED], text=["what is this"], return_tensors="pt")
    assert theirs["input_ids"].tolist() == ours["input_ids"].tolist()
    torch.testing.assert_close(theirs["pixel_values"], ours["pixel_values"])
