"""Control tokens in texts from data are plain letters, in both families."""

import pytest
from PIL import Image
from tiny_paligemma import IMAGE_TOKENS, tiny_paligemma_processor
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from openpali.modeling.control_tokens import found_controls, spaced, split_control_tokens

IMAGE = Image.new("RGB", (20, 20), "red")
TEXT = "a <image> of <bos><eos> </s> <pad> a <loc0001> dog <seg001>"


@pytest.fixture(params=["pali3", "paligemma"])
def processor(request, tiny_processor, tiny_tokenizer):
    return tiny_processor if request.param == "pali3" else tiny_paligemma_processor(tiny_tokenizer)


def tokens_of(processor, batch, key):
    return [token for token in batch[key][0].tolist() if token >= 0]


def special_of(processor):
    return set(processor.tokenizer.all_special_ids) | {processor.image_token_id}


@pytest.mark.parametrize("controls", ["places", "none"])
def test_a_target_has_only_its_own_end_and_comes_back_as_it_was(processor, controls):
    options = {"return_tensors": "pt", "controls": controls}
    batch = processor(images=[[IMAGE]], text=["caption en"], suffix=[TEXT], **options)
    ids = tokens_of(processor, batch, "labels")
    end = processor.tokenizer.eos_token_id
    assert ids[-1] == end
    assert not special_of(processor) & set(ids[:-1])
    places = set(processor.tokenizer.convert_tokens_to_ids(["<loc0001>", "<seg001>"]))
    assert places & set(ids) == (places if controls == "places" else set())
    assert processor.tokenizer.decode(ids[:-1]) == TEXT


def test_a_prompt_has_only_the_tokens_of_its_images_and_none_is_lost(processor):
    plain, marked = (
        processor(images=[[IMAGE, IMAGE]], text=[text], return_tensors="pt", controls="places")
        for text in ("caption en", TEXT)
    )
    for batch in (plain, marked):
        assert tokens_of(processor, batch, "input_ids").count(processor.image_token_id) == 2 * IMAGE_TOKENS
    expected = special_of(processor) & set(tokens_of(processor, plain, "input_ids"))
    assert special_of(processor) & set(tokens_of(processor, marked, "input_ids")) == expected
    ids = [token for token in tokens_of(processor, marked, "input_ids") if token not in special_of(processor)]
    assert processor.tokenizer.decode(ids).strip() == TEXT


def test_other_texts_are_tokenised_as_ever(processor):
    texts = ["caption en", "<loc0005> a red dog < b > c"]
    images = [[IMAGE], [IMAGE]]
    usual, plain = (
        processor(images=images, text=texts, suffix=texts, return_tensors="pt", **options)
        for options in ({}, {"controls": ["places", "places"]})
    )
    assert usual.keys() == plain.keys()
    assert all((usual[key] == plain[key]).all() for key in usual)


@pytest.mark.parametrize("count", [1, 2])
def test_marks_of_all_images_in_front_are_where_they_belong(processor, count):
    """Usual prompts of PaliGemma; any further `<image>` is plain letters."""
    images, options = [[IMAGE] * count], {"return_tensors": "pt", "controls": "places"}
    bare, marked, more = (
        tokens_of(processor, processor(images=images, text=[f"{marks}what is this"], **options), "input_ids")
        for marks in ("", "<image>" * count, "<image>" * (count + 1))
    )
    assert marked == bare
    assert more.count(processor.image_token_id) == bare.count(processor.image_token_id)
    assert "<image>what is this" in processor.tokenizer.decode([t for t in more if t not in special_of(processor)])


def test_a_limit_counts_the_same_tokens(processor):
    batch = processor(images=[[IMAGE]], text=[TEXT], suffix=[TEXT], return_tensors="pt", controls="none",
                      max_length=6, suffix_max_length=5)  # fmt: skip
    assert len(tokens_of(processor, batch, "labels")) == 5
    words = [t for t in tokens_of(processor, batch, "input_ids") if t != processor.image_token_id]
    assert len(words) == 6 + (5 if "token_type_ids" in batch else 0)


def test_placeholders_mark_images_in_a_direct_call(processor):
    batch = processor(images=[[IMAGE]], text=["what <image> is"], return_tensors="pt")
    ids = tokens_of(processor, batch, "input_ids")
    assert ids.count(processor.image_token_id) == IMAGE_TOKENS
    assert processor.tokenizer.decode(ids[: ids.index(processor.image_token_id)]).strip() == "what"
    with pytest.raises(ValueError, match="controls is one of all, places, none, not 'some'"):
        processor(images=[[IMAGE]], text=["x"], suffix=["<x"], controls="some")
    with pytest.raises(ValueError, match="1 texts but 2 values of controls"):
        processor(images=[[IMAGE]], text=["x"], suffix=["x"], controls=["places", "none"])


def test_an_end_that_is_a_word_of_the_vocabulary_is_not_found_either():
    """As in T5's vocabulary, where `</s>` has the best score of all."""
    words = [("</s>", 0.0), ("<unk>", 0.0), *((letter, -3.0) for letter in "▁</sab>")]
    inner = Tokenizer(models.Unigram(words, unk_id=1))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", unk_token="<unk>")
    assert tokenizer.eos_token_id in tokenizer("a</s>b", add_special_tokens=False).input_ids
    cut = split_control_tokens("a</s>b", tokenizer.all_special_tokens, "places")
    assert cut == ["a<", "/s>b"]
    assert tokenizer.eos_token_id not in [
        t for part in cut for t in tokenizer(part, add_special_tokens=False).input_ids
    ]


def test_pieces_are_the_text_again():
    special = ["<image>", "<bos>"]
    for text in ("", "<", "a", "<image>", "<<image>image>", TEXT, "<image><image>"):
        for controls in ("all", "places", "none"):
            cut = split_control_tokens(text, special, controls)
            assert "".join(cut) == text
            if controls != "all":
                assert not any(token in piece for token in special for piece in cut)
    assert spaced("a <image> b", special) == "a < image> b"
    assert found_controls([TEXT], places=False) == ["<image>", "<bos>", "<eos>", "</s>", "<pad>"]
    assert found_controls([TEXT, "<loc1>"], places=True)[-1] == "<seg001>"
    assert found_controls(["a < b", "<b>bold</b>", "<html>"], places=True) == []
