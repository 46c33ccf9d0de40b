import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from openpali.data.sources.builtin.phrases import KINDS, LANGUAGES, caption, question
from openpali.data.tokenizer import LOCATION_TOKENS, SEGMENTATION_TOKENS, train_tokenizer

TEXTS = [
    f"answer {language} {question(kind, language, thing='xyz', position='top left')}"
    for language in LANGUAGES
    for kind in (*KINDS, "what_at")
] + [caption({"xyz": count, "zyx": 1}, language) for language in LANGUAGES for count in range(1, 10)]
TOKENIZER = train_tokenizer(TEXTS, vocab_size=1000)


def decode(text: str) -> str:
    return TOKENIZER.decode(TOKENIZER(text).input_ids, skip_special_tokens=True)


def test_special_tokens_are_those_of_t5():
    assert TOKENIZER.convert_ids_to_tokens([0, 1, 2]) == ["<pad>", "</s>", "<unk>"]
    assert (TOKENIZER.pad_token_id, TOKENIZER.eos_token_id, TOKENIZER.unk_token_id) == (0, 1, 2)
    assert TOKENIZER("a").input_ids[-1] == 1
    assert TOKENIZER("").input_ids == [1]
    assert TOKENIZER("a", add_special_tokens=False).input_ids == TOKENIZER("a").input_ids[:-1]
    assert TOKENIZER.padding_side == "right"
    assert TOKENIZER(["a", "answer en a b c"], padding=True).input_ids[0][-1] == 0


def test_the_size_is_what_was_asked_for():
    assert len(TOKENIZER) == 1000 + 1024 + 128 + 1
    with pytest.raises(ValueError, match="need 259"):
        train_tokenizer(TEXTS, vocab_size=258)


def test_location_and_segmentation_tokens_survive_decoding_and_images_do_not():
    for token in (*LOCATION_TOKENS, *SEGMENTATION_TOKENS):
        assert len(TOKENIZER(token, add_special_tokens=False).input_ids) == 1
    text = "<loc0000><loc0512><loc0001><loc1023> dog ; <loc0001><loc0002><loc0003><loc0004><seg127> red cat"
    assert decode(text) == text
    assert decode(f"<image><image>{text}") == text
    image = TOKENIZER.convert_tokens_to_ids("<image>")
    assert TOKENIZER("a<image>b").input_ids.count(image) == 1
    assert image in TOKENIZER.all_special_ids
    assert not set(TOKENIZER.convert_tokens_to_ids(list(LOCATION_TOKENS))) & set(TOKENIZER.all_special_ids)


@given(st.text(st.characters(blacklist_categories=["Cs"]), max_size=60))
def test_any_text_comes_back_unchanged(text):
    assert decode(text) == text or any(token in text for token in TOKENIZER.all_special_tokens)
    assert TOKENIZER.unk_token_id not in TOKENIZER(text).input_ids


@pytest.mark.parametrize("text", ["  two  spaces ", "これは何ですか？", "ما هذا؟", "😀 ﷽", "a\tb\nc", "don't . ,"])
def test_spaces_and_scripts_come_back_unchanged(text):
    assert decode(text) == text


def test_training_is_deterministic_whatever_the_order():
    shuffled = random.Random(0).sample(TEXTS, len(TEXTS))
    again = train_tokenizer(iter(shuffled), vocab_size=1000)
    assert again.backend_tokenizer.to_str() == TOKENIZER.backend_tokenizer.to_str()


def test_known_texts_are_short():
    assert sum(len(TOKENIZER(text).input_ids) for text in TEXTS) < 0.35 * sum(len(text.encode()) for text in TEXTS)


def test_it_is_saved_and_loaded(tmp_path):
    TOKENIZER.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert len(loaded) == len(TOKENIZER)
    for text in (*TEXTS[:40], "<image><loc0001> dog", "  a "):
        assert loaded(text).input_ids == TOKENIZER(text).input_ids
        assert loaded.decode(loaded(text).input_ids, skip_special_tokens=True) == decode(text)
    assert (loaded.pad_token_id, loaded.eos_token_id, loaded.unk_token_id) == (0, 1, 2)
