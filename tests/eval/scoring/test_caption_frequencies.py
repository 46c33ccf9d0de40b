"""CIDEr with given document frequencies is the metric's, where they are those of the captions' own set."""

import pytest

from openpali.eval.answering.evaluate_task import load_metric
from openpali.eval.scoring.caption_frequencies import DocumentFrequencies

TRUE = [["A dog on a mat.", "a brown dog"], ["two cats"], ["a bird in a tree", "one bird"], ["a red house"]]
FOUND = ["a dog on the mat", "two cats", "a fish", "a red house in a tree"]


def test_scores_are_the_metrics_own():
    result = load_metric("cider").compute(predictions=FOUND, references=TRUE, tokenizer="plain", return_scores=True)
    assert result
    known = DocumentFrequencies.of(TRUE)
    assert known.ciders(FOUND, TRUE) == pytest.approx(result["scores"])
    assert max(result["scores"]) > 50


def test_a_caption_alone_has_the_score_that_it_has_among_others():
    known = DocumentFrequencies.of(TRUE)
    every = known.ciders(FOUND, TRUE)
    assert [known.ciders([found], [true])[0] for found, true in zip(FOUND, TRUE)] == every
    assert known.ciders([], []) == []
