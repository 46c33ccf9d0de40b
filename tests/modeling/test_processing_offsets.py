"""Optional outputs of Transformers' processors: token counts, kinds and offsets, masks of answers."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_adapters import FAMILIES
from tiny_paligemma import IMAGE_TOKENS, tiny_paligemma_processor
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.models.paligemma.processing_paligemma import PaliGemmaProcessor as StockProcessor

from openpali import Pali3Processor

IMAGE = Image.new("RGB", (20, 20), (9, 9, 9))
WIDE = "<image>" * IMAGE_TOKENS
TEXTS = ["<image>what is this", "<image>detect dog and two green cats"]


def make(family: str, tokenizer: Any, images: Any) -> Any:
    if family == "pali3":
        return Pali3Processor(images, copy.deepcopy(tokenizer), image_seq_length=IMAGE_TOKENS)
    return tiny_paligemma_processor(tokenizer)


@pytest.fixture(params=FAMILIES)
def processor(request, tiny_tokenizer, tiny_processor) -> Any:
    return make(request.param, tiny_tokenizer, tiny_processor.image_processor)


@pytest.fixture
def stock(tiny_tokenizer) -> Any:
    ours = tiny_paligemma_processor(tiny_tokenizer)
    return StockProcessor(ours.image_processor, ours.tokenizer)


def test_token_counts_are_the_stock_ones(processor, stock):
    sizes = [(20, 20), (300, 10)]
    for image_sizes in (sizes, [], None):
        ours, theirs = (p._get_num_multimodal_tokens(image_sizes=image_sizes) for p in (processor, stock))
        assert ours == theirs
    assert processor._get_num_multimodal_tokens(image_sizes=sizes)["num_image_tokens"] == [IMAGE_TOKENS] * 2


def test_kinds_of_tokens_are_the_stock_ones(processor, stock):
    options: dict[str, Any] = {"return_mm_token_type_ids": True, "padding": True, "return_tensors": "pt"}
    batch = processor([IMAGE] * 2, TEXTS, **options)
    kinds = batch["mm_token_type_ids"]
    assert torch.equal(kinds, (batch["input_ids"] == processor.image_token_id).long())
    assert kinds.sum(1).tolist() == [IMAGE_TOKENS] * 2
    if "token_type_ids" in batch:
        assert torch.equal(kinds, stock([IMAGE] * 2, TEXTS, padding_side="left", **options)["mm_token_type_ids"])
    assert "mm_token_type_ids" not in processor([IMAGE] * 2, TEXTS)


def test_replacements_are_the_stock_ones(processor, stock):
    texts = ["a <image>red<image> dog", "<image>cat"]
    options: dict[str, Any] = {"return_text_replacement_offsets": True, "return_tensors": "pt", "padding": True}
    found = processor([[IMAGE] * 2, [IMAGE]], texts, **options)["text_replacement_offsets"]
    # the stock one writes <bos> into the text before it looks, behind the last image: no image moves
    assert found == stock([[IMAGE] * 2, [IMAGE]], texts, **options)["text_replacement_offsets"]


def test_every_token_has_the_place_of_its_text(processor):
    texts = ["a <image>red<image> dog", "cat", "<image>two green cats"]
    options: dict[str, Any] = {"return_offsets_mapping": True, "suffix": ["x", "y", "z"], "max_length": 7}
    batch = processor([[IMAGE] * 2, [IMAGE], [IMAGE]], texts, **options)
    expanded = [texts[0].replace("<image>", WIDE), f"{WIDE}cat", texts[2].replace("<image>", WIDE)]
    for ids, spans, text in zip(batch["input_ids"], batch["offset_mapping"], expanded):
        assert len(ids) == len(spans)
        words = [processor.tokenizer.decode([i]) for i, (start, end) in zip(ids, spans) if end > start]
        assert words == [text[start:end] for start, end in spans if end > start]
        assert text.startswith("".join(words))
    nowhere = [token for token, (start, end) in zip(batch["input_ids"][1], batch["offset_mapping"][1]) if end == start]
    tokenizer = processor.tokenizer
    assert set(nowhere) <= {*tokenizer.all_special_ids, *tokenizer("\ny", add_special_tokens=False)["input_ids"]}
    assert "offset_mapping" not in processor(IMAGE, "a")


@pytest.mark.parametrize("side", ["left", "right", None])
@pytest.mark.parametrize("shown", [1, 2])
def test_an_answers_tokens_are_marked_behind_images_too(processor, side, shown):
    image = {"type": "image", "image": IMAGE}
    ask = {"role": "user", "content": [*[image] * shown, {"type": "text", "text": "what is this"}]}
    chats = [
        [ask, {"role": "assistant", "content": "a red dog"}],
        [{"role": "user", "content": "two cats"}, {"role": "assistant", "content": "cats"}],
    ]
    batch = processor.apply_chat_template(
        chats,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        return_assistant_tokens_mask=True,
        processor_kwargs={"padding_side": side},
    )
    marked = [ids[mask.bool()] for ids, mask in zip(batch["input_ids"], batch["assistant_masks"])]
    assert [processor.tokenizer.decode(ids) for ids in marked] == ["a red dog", "cats"]
    assert "offset_mapping" not in batch
    assert "text_replacement_offsets" not in batch


def test_a_template_without_placeholders_moves_nothing(processor):
    """Images are put in front of its text, which the marks must follow."""
    chat = [
        {"role": "user", "content": [{"type": "image", "image": IMAGE}]},
        {"role": "assistant", "content": "cat"},
    ]
    options: dict[str, Any] = {"tokenize": True, "return_dict": True, "return_assistant_tokens_mask": True}
    template = "what is {% generation %}{{ messages[1]['content'] }}{% endgeneration %} dog"
    batch = processor.apply_chat_template(chat, chat_template=template, **options)
    ids = np.array(batch["input_ids"][0])[np.array(batch["assistant_masks"][0]) == 1]
    assert processor.tokenizer.decode(ids) == " cat"  # with the space that is part of its token


def test_the_side_of_padding_is_taken_in_every_form(processor):
    for side in ("left", "right"):
        batch = processor([IMAGE] * 2, TEXTS, text_kwargs={"padding_side": side})
        assert (batch["attention_mask"][0][0], batch["attention_mask"][0][-1]) == (
            (0, 1) if side == "left" else (1, 0)
        )
    left_out, none = (processor([IMAGE] * 2, TEXTS, **given)["input_ids"] for given in ({}, {"padding_side": None}))
    assert left_out == none


def test_a_placeholder_that_is_several_tokens_is_refused(tiny_processor, tmp_path):
    """It is in the vocabulary, but texts are split before it can be found."""
    words = ["<unk>", "<image>", "<", "image", ">", "<pad>", "</s>"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    options: Any = {"unk_token": "<unk>", "pad_token": "<pad>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **options).save_pretrained(tmp_path / "split")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path / "split")
    assert tokenizer.convert_tokens_to_ids("<image>") == 1
    with pytest.raises(ValueError) as refused:
        Pali3Processor(tiny_processor.image_processor, tokenizer)
    message = str(refused.value)
    assert "\n" not in message
    assert f"the tokenizer {tmp_path / 'split'} has no <image> token (it writes two of them as" in message
    remedy = message.rpartition("or tokenizer.")[2]
    exec(f"tokenizer.{remedy}", {"tokenizer": tokenizer})
    Pali3Processor(tiny_processor.image_processor, tokenizer)
