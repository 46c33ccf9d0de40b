"""Lower-casing and location tokens, also after saving and loading."""

import pytest
from transformers import AutoTokenizer

from openpali.data.files.config import ConfigError
from openpali.data.tokenizer import train_tokenizer
from openpali.recipes.self_distillation.decoder_tokenizer import lower_cased, with_locations


def test_texts_are_lower_cased_and_tokens_are_not(tmp_path):
    tokenizer = train_tokenizer(["a dog"], 300)
    tokenizer.add_tokens(["<Big>"])
    same = tokenizer("a dog")["input_ids"]
    assert tokenizer("A Dog")["input_ids"] != same
    lower_cased(tokenizer).save_pretrained(tmp_path)
    for one in (tokenizer, lower_cased(tokenizer), AutoTokenizer.from_pretrained(tmp_path)):
        assert one("A Dog")["input_ids"] == same
        assert one("a<loc0001></s>")["input_ids"][1:3] == one.convert_tokens_to_ids(["<loc0001>", "</s>"])


def test_the_decoder_alone_gets_location_tokens():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    plain = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "?": 1}, "?")))
    written = with_locations(plain)
    assert (len(plain), len(written)) == (2, 1026)
    assert len(with_locations(written)) == 1026


def test_a_tokenizer_without_a_normaliser_is_refused():
    with pytest.raises(ConfigError, match="lower_case: this tokenizer is not a fast one"):
        lower_cased(object())
