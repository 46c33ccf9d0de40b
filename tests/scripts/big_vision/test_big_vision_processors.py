"""Tokenizers get the ids that the checkpoint was trained with, or are refused."""

import json
import logging

import pytest
from big_vision_files import save_tokenizer
from transformers import AutoTokenizer, GemmaConfig, PaliGemmaConfig, PaliGemmaProcessor, SiglipVisionConfig

from openpali.modeling.processing_chat import CHAT_TEMPLATE
from openpali.scripts.big_vision.processors import make_processor


def config_of(rows):
    """A small model whose table has as many rows as a large one's."""
    vision = SiglipVisionConfig(hidden_size=8, num_attention_heads=1, image_size=28, patch_size=14)
    text = GemmaConfig(vocab_size=rows + 64, hidden_size=8, num_attention_heads=1)
    return PaliGemmaConfig(vision_config=vision, text_config=text, image_token_index=rows)


def test_a_bare_gemma_tokenizer_is_extended_in_the_order_of_the_table(tmp_path):
    save_tokenizer(tmp_path / "gemma", 256_000)
    processor = make_processor(config_of(257_152), tmp_path / "gemma", 257_152)
    assert isinstance(processor, PaliGemmaProcessor)
    processor.save_pretrained(tmp_path / "out")
    for folder in (tmp_path / "out", tmp_path / "again"):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        wanted = {"<loc0000>": 256_000, "<loc1023>": 257_023, "<seg000>": 257_024, "<seg127>": 257_151}
        for token, row in (wanted | {"<image>": 257_152}).items():
            assert tokenizer(token)["input_ids"] == [row]
        assert len(tokenizer) == 257_153
        # a folder that has them already is taken as it is
        make_processor(config_of(257_152), tmp_path / "out", 257_152).save_pretrained(tmp_path / "again")


def test_a_converted_checkpoint_answers_chats_and_pads_on_the_left(tmp_path, caplog):
    """The chat template of an instruction-tuned Gemma shows no images: it is replaced, with a line."""
    folder = save_tokenizer(tmp_path / "gemma-it", 2000)
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}<end_of_turn>")
    with caplog.at_level(logging.WARNING):
        make_processor(config_of(3152), folder, 3152).save_pretrained(tmp_path / "out")
    assert f"the chat template of the tokenizer {folder} has no <image>: it is replaced" in caplog.text
    caplog.clear()
    make_processor(config_of(3152), tmp_path / "out", 3152).save_pretrained(tmp_path / "again")
    assert not caplog.records
    for name in ("out", "again"):
        stock = PaliGemmaProcessor.from_pretrained(tmp_path / name)
        assert stock.chat_template == CHAT_TEMPLATE
        assert json.loads((tmp_path / name / "tokenizer_config.json").read_text())["padding_side"] == "left"


def test_tokenizers_that_do_not_fit(tmp_path):
    short = save_tokenizer(tmp_path / "short", 2000)
    with pytest.raises(ValueError, match="<loc0000> gets the id 2000, the checkpoint has it at 256000.*256000 tokens"):
        make_processor(config_of(257_152), short, 257_152)
    with pytest.raises(ValueError, match="<image> gets the id 2000, the checkpoint has it at 2001"):
        make_processor(config_of(2001), short, 2001)
    tokenizer = AutoTokenizer.from_pretrained(short)
    tokenizer.eos_token = "<unk>"
    tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="its eos_token_id is 3, the checkpoint's 1"):
        make_processor(config_of(2000), tmp_path / "other", 2000)
    with pytest.raises(OSError, match="absent"):
        make_processor(config_of(2000), tmp_path / "absent", 2000)
