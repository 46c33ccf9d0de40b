import pytest

from openpali.eval.scoring.text_overlap import chrf, token_f1


@pytest.mark.parametrize(
    ("one", "other", "f1"),
    [("a red ball", "the ball", 2 / 3), ("Two!", "2", 1), ("cat", "dog", 0), ("", "", 1), ("", "dog", 0)],
)
def test_f1_of_words_after_the_normalisation_of_answers(one, other, f1):
    assert token_f1(one, other) == pytest.approx(f1)
    assert token_f1(other, one) == token_f1(one, other)


# sacrebleu 2.6, sentence_chrf(text, [reference])
@pytest.mark.parametrize(
    ("text", "reference", "score"),
    [
        ("the cat sat", "the cat sits", 61.034534424114085),
        ("ein roter Ball", "ein blauer Ball", 40.349823192777414),
        ("two dogs and a cat", "2 dogs and one cat on a red sofa", 28.699521772005976),
        ("ab", "abcdefgh", 23.404255319148938),
        ("狗在跑", "两只狗在跑步", 43.72623574144487),
        ("a dog", "a dog", 100),
        ("", "a dog", 0),
        ("xyz", "abc", 0),
    ],
)
def test_chrf_is_that_of_sacrebleu(text, reference, score):
    assert chrf(text, reference) == pytest.approx(score)
