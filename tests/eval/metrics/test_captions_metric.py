import json
import shutil
from pathlib import Path

import pytest

from openpali.eval.answering.evaluate_task import load_metric
from openpali.eval.scoring.caption_tokenizer import ptb_tokenize, tokenize_captions

CASES = json.loads((Path(__file__).parents[2] / "fixtures" / "caption_metrics.json").read_text())
PREDICTIONS, REFERENCES = list(CASES["preds"].values()), list(CASES["gts"].values())
EXPECTED = {
    "cider": 100 * CASES["scores"]["cider"],
    **{f"bleu_{order}": value for order, value in enumerate(CASES["scores"]["bleu-4"], 1)},
    "rouge_l": CASES["scores"]["rouge"],
}


def compute(predictions, references, **options):
    return load_metric("captions").compute(
        predictions=predictions, references=references, return_scores=True, **options
    )


def without_java(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)


@pytest.mark.parametrize("tokenizer", ["auto", "plain"])
def test_scores_equal_the_reference(tokenizer):
    result = compute(PREDICTIONS, REFERENCES, tokenizer=tokenizer)
    assert {key: result[key] for key in EXPECTED} == pytest.approx(EXPECTED, abs=1e-6)
    assert sum(result["scores"]) / 4 == pytest.approx(result["cider"])
    cider = load_metric("cider").compute(
        predictions=PREDICTIONS, references=REFERENCES, tokenizer=tokenizer, return_scores=True
    )
    assert cider == {key: result[key] for key in ("cider", "tokenizer", "scores")}


def test_tokens_equal_the_reference():
    """The plain tokenizer agrees on these simple captions; where there is Java its tokens are the official ones."""
    _, tokens, note = tokenize_captions(PREDICTIONS, REFERENCES)
    assert tokens == list(CASES["ptb_tokenized_gts"].values())
    assert note == ("ptb" if shutil.which("java") else "plain (not comparable with published numbers)")
    with pytest.raises(ValueError, match="no tokenizer 'moses'; there are auto, ptb, plain"):
        tokenize_captions(["a"], [["a"]], "moses")


def test_without_java_the_result_says_so(monkeypatch):
    without_java(monkeypatch)
    assert compute(PREDICTIONS, REFERENCES)["tokenizer"] == "plain (not comparable with published numbers)"


def test_a_failure_of_java_names_the_way_out(monkeypatch, tmp_path):
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\ncat >/dev/null\necho broken >&2\nexit 3\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(RuntimeError, match=r"(?s)failed on 1 captions \(exit 3.*tokenizer='plain'.*broken"):
        ptb_tokenize(["a dog"])


def test_types_have_the_same_weight_and_words_are_rare_within_their_own(monkeypatch):
    """The German captions are the English ones with other words: the mean of two equal halves, whatever their size."""
    without_java(monkeypatch)
    german = [" ".join(f"x{word}" for word in text.split()) for text in PREDICTIONS]
    german_references = [[" ".join(f"x{w}" for w in text.split()) for text in texts] for texts in REFERENCES]
    references = [{"answers": texts, "type": "en"} for texts in REFERENCES]
    references += [{"answers": texts, "type": "de"} for texts in german_references]
    result = compute(PREDICTIONS + german, references)
    assert {key: result[key] for key in EXPECTED} == pytest.approx(EXPECTED, abs=1e-6)
    assert result["cider_en"] == pytest.approx(result["cider_de"])
    half = compute(PREDICTIONS + [""] * 4, references)
    assert half["cider"] == pytest.approx(EXPECTED["cider"] / 2)
    assert half["cider_de"] == 0.0
    with pytest.raises(ValueError, match="reference 4 has no type and others have"):
        compute(PREDICTIONS + german, references[:4] + german_references)


def test_empty_odd_and_long_captions(monkeypatch):
    without_java(monkeypatch)
    predictions = ["", "\u2028", "été 猫 🐈", "dog " * 2000]
    result = compute(predictions, ["a dog", "two cats", ["été 猫 🐈"], ["one dog", ""]])
    assert result["scores"][:2] == [0.0, 0.0]
    assert result["scores"][2] > 100
    assert 0 < result["rouge_l"] < 0.5
    nothing = compute(["", ""], ["a dog", "two cats"])
    assert [nothing[key] for key in EXPECTED] == [0.0] * 6


@pytest.mark.parametrize("name", ["captions", "cider"])
def test_what_cannot_be_scored_is_named(name, monkeypatch):
    without_java(monkeypatch)
    compute = load_metric(name).compute
    with pytest.raises(ValueError, match="prediction 1 is None, which is no text: a missing answer is ''"):
        compute(predictions=["a", None], references=["a", "b"])
    with pytest.raises(ValueError, match="prediction 1 has no reference"):
        compute(predictions=["a", "b"], references=[["a"], []])
    with pytest.raises(ValueError, match="nothing to score"):
        compute(predictions=[], references=[])
