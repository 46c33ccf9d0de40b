"""Translations by models that have learnt a few by heart, and their check by translating back."""

import io
import json

import pytest
from PIL import Image
from tiny_seq2seq import taught_nllb, taught_t5
from transformers import M2M100Tokenizer

from openpali.modeling.user_errors import CheckpointError
from openpali.scripts.web.labelling import seq2seq
from openpali.scripts.web.running.samples import WebSample, merged
from openpali.scripts.web.steps.translations import Translations

CODES = {"de": "deu_Latn", "fr": "fra_Latn"}
LEARNT = {
    ("eng_Latn", "deu_Latn", "a dog"): "ein hund",
    ("deu_Latn", "eng_Latn", "ein hund"): "a dog",
    # a wrong translation is found by translating it back
    ("eng_Latn", "fra_Latn", "a dog"): "un chat",
    ("fra_Latn", "eng_Latn", "un chat"): "the cat",
}


def sample(**captions):
    return WebSample("a", 0, "0", Image.new("RGB", (8, 8)), {"captions": captions})


@pytest.fixture(scope="module")
def nllb(tmp_path_factory):
    return taught_nllb(tmp_path_factory.mktemp("models") / "nllb", LEARNT)


@pytest.fixture(scope="module")
def madlad(tmp_path_factory):
    learnt = {"<2de> a dog": "ein hund", "<2en> ein hund": "a dog"}
    return taught_t5(tmp_path_factory.mktemp("models") / "madlad", learnt)


def test_captions_come_in_further_languages_where_translating_back_agrees(nllb):
    step = Translations(model=nllb, languages=CODES, source_code="eng_Latn")
    batch = [sample(en="a dog"), sample(en=["a dog"], de="da"), sample(de="ein hund")]
    first, second, third = step(batch)
    assert first.labels == {"captions": {"en": "a dog", "de": ["ein hund"]}}
    assert first.models == {"captions.de": nllb}
    assert first.values == {"chrf_de": 100, "chrf_fr": pytest.approx(5.7, abs=0.1)}
    # what is there is not replaced
    assert (second.labels, second.models, second.values.keys()) == ({}, {}, {"chrf_fr"})
    assert (third.labels, third.values) == ({}, {})
    assert merged(batch[0].record, first)["label_models"] == {"captions.de": nllb}
    assert step(batch) == [first, second, third]


def test_without_the_check_every_translation_stays(nllb):
    step = Translations(model=nllb, languages=CODES, source_code="eng_Latn", least_chrf=0, most=2)
    (verdict,) = step([sample(en=["a dog", "a dog", "a dog"])])
    assert verdict.labels["captions"]["fr"] == ["un chat"] * 2
    assert (set(verdict.models), verdict.values) == ({"captions.de", "captions.fr"}, {})
    # a translation that does not end is none
    short = Translations(model=nllb, languages=CODES, source_code="eng_Latn", least_chrf=0, max_new_tokens=3)
    assert short([sample(en="a dog")])[0].labels == {}


def test_languages_may_be_words_of_the_prompt(madlad):
    step = Translations(model=madlad, languages={"de": "de"}, prompt="<2{language}> {text}")
    (verdict,) = step([sample(en="a dog")])
    assert verdict.labels["captions"] == {"en": "a dog", "de": ["ein hund"]}


def test_a_model_of_one_direction_needs_another_one_to_translate_back(tmp_path):
    there = taught_t5(tmp_path / "there", {"a dog": "ein hund"})
    back = taught_t5(tmp_path / "back", {"text: ein hund": "a dog"})
    step = Translations(model=there, languages={"de": ""}, back_model=back, back_prompt="text: {text}")
    assert step([sample(en="a dog")])[0].labels["captions"]["de"] == ["ein hund"]
    with pytest.raises(ValueError, match="cannot translate back: give back_model, or least_chrf: 0"):
        Translations(model=there, languages={"de": ""})
    with pytest.raises(ValueError, match="is not told which language to write: give a prompt with {language}"):
        Translations(model=there, languages={"de": "", "fr": ""}, least_chrf=0)
    assert Translations(model=there, languages={"de": ""}, least_chrf=0).languages == {"de": ""}


def test_an_unknown_language_is_named_with_similar_ones(nllb):
    with pytest.raises(ValueError, match=r"has no language 'de': did you mean .*deu_Latn"):
        Translations(model=nllb, languages={"de": "de"}, source_code="eng_Latn")
    with pytest.raises(ValueError, match="has no language 'en': did you mean"):
        Translations(model=nllb, languages=CODES)
    with pytest.raises(CheckpointError, match="no folder outputs/nowhere"):
        Translations(model="outputs/nowhere", languages=CODES)
    # where the Hub is switched off, a configuration that names it can be read and planned
    step = Translations(model="someone/nllb", languages=CODES)
    with pytest.raises(CheckpointError, match="no folder someone/nllb here, and the Hub cannot be reached"):
        step([sample(en="a dog")])
    # YAML reads the code of Norwegian as false
    assert Translations(nllb, {False: "nob_Latn"}, source_code="eng_Latn").languages == {"no": "nob_Latn"}


def test_codes_of_m2m100_are_those_of_its_tokenizer(tmp_path):
    import sentencepiece

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a dog", "ein hund"] * 9), model_writer=written, vocab_size=14, minloglevel=2
    )
    (tmp_path / "spm.model").write_bytes(written.getvalue())
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁a", "▁"]
    (tmp_path / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
    tokenizer = M2M100Tokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "spm.model"))
    tokenizer.save_pretrained(tmp_path / "m2m100")
    name = str(tmp_path / "m2m100")
    assert seq2seq.has_languages(name)
    assert seq2seq.language_token(name, "de") == tokenizer.get_lang_id("de")
    with pytest.raises(ValueError, match="has no language 'deu'"):
        seq2seq.language_token(name, "deu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give model and languages"),
        ({"model": "m"}, "give model and languages"),
        ({"model": "m", "languages": {"en": "en"}}, "languages has en, the source"),
        ({"model": "m", "languages": {"de": "de"}, "prompt": "translate"}, "no place for {text}"),
        ({"model": "m", "languages": {"de": "de"}, "back_prompt": "x"}, "no place for {text}"),
        ({"model": "m", "languages": {"de": "de"}, "least_chrf": 101}, "least_chrf is in 0..100"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Translations(**options)
