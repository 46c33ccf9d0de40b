"""The metrics of MMVP, Objaverse Multiview, and of naming a person."""

import pytest
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from openpali.eval.answering.evaluate_task import load_metric


def pair(*answers):
    return [{"answers": [answer], "type": f"pair {place // 2}"} for place, answer in enumerate(answers)]


def test_a_pair_counts_when_both_of_its_questions_are_right():
    references = pair("Open", "Closed", "Front", "Back", "(a)", "(b)")
    result = load_metric("pair_accuracy").compute(
        predictions=["open", " closed. ", "front", "front", "(b)", "(a)"], references=references, return_scores=True
    )
    assert result["scores"] == [1, 1, 1, 0, 0, 0]
    assert result["pair_accuracy"] == pytest.approx(1 / 3)
    assert result["accuracy"] == 0.5
    assert "single_questions" not in result


def test_a_question_without_its_partner_does_not_count_as_a_pair():
    metric = load_metric("pair_accuracy")
    result = metric.compute(predictions=["a", "b", "c"], references=pair("a", "b", "c"))
    assert (result["pair_accuracy"], result["accuracy"]) == (1, 1)
    assert result["single_questions"].startswith("1, ")
    with pytest.raises(ValueError, match="no pair has both of its questions"):
        metric.compute(predictions=["a"], references=pair("a"))
    with pytest.raises(ValueError, match="3 questions have the type 'x': a pair has two"):
        metric.compute(predictions=["a"] * 3, references=[{"answers": ["a"], "type": "x"}] * 3)


def test_a_mention_is_a_whole_word():
    words = ["man", "hot dog"]
    found = load_metric("mentions").compute(
        predictions=["A MAN, walking", "a postman", "two hot dogs", "a hot-dog stand", ""],
        references=[words] * 5,
        return_scores=True,
    )
    assert found == {"mentions": 0.4, "scores": [1, 0, 0, 1, 0]}


VIEWS = ["A banana.", "fruit", "banana", "fruit", "fruit", ""]
OBJECTS = [{"answers": ["banana"], "type": "one"}] * 5 + [{"answers": ["bow"], "type": "two"}]


def test_answers_about_an_object_are_joined_by_their_probabilities():
    metric = load_metric("multiview")
    equal = metric.compute(predictions=VIEWS, references=OBJECTS)
    # three times fruit, twice banana
    assert (equal["accuracy"], equal["view_accuracy"]) == (0, pytest.approx(2 / 6))
    sure = metric.compute(predictions=VIEWS, references=OBJECTS, confidences=[0.9, 0.1, 0.8, 0.1, 0.1, 1.0])
    assert sure["accuracy"] == 0.5


def test_a_text_encoder_says_how_near_the_answer_is(tmp_path, tiny_tokenizer):
    tiny_tokenizer.save_pretrained(tmp_path)
    words = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=len(words), **size)).save_pretrained(tmp_path)
    found = load_metric("multiview").compute(
        predictions=["banana", "", "bow"],
        references=[{"answers": [name], "type": name} for name in ("banana", "lamp", "bow")],
        encoder=str(tmp_path),
    )
    assert found["similarity"] == pytest.approx(2 / 3, abs=1e-6)
    assert "not comparable" in found["encoder"]
