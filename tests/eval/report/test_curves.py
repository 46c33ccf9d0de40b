import pytest

from openpali.eval.report.curves import draw_curves, stage_panels


def panels(**scores):
    logs = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0, "eval_loss": 1.5, **scores}]
    return dict(stage_panels(logs))


def test_each_unit_has_a_panel_of_its_own():
    scores = {"f1": 0.5, "mean_iou": 0.25, "exact_match": 1.0, "cider": 80.0, "perplexity": 12.0, "codes_used": 99.0}
    found = panels(**{f"eval_{key}": value for key, value in scores.items()})
    assert list(found) == [
        "loss",
        "validation, %",
        "validation CIDEr",
        "validation perplexity",
        "validation codes used",
    ]
    assert found["loss"] == {"training": ([1.0, 2.0], [2.0, 1.0]), "validation": ([2.0], [1.5])}
    assert found["validation, %"] == {"F1": ([2.0], [50]), "mean IoU": ([2.0], [25]), "exact match": ([2.0], [100])}
    assert found["validation CIDEr"] == {"CIDEr": ([2.0], [80.0])}


@pytest.mark.parametrize(
    ("scores", "title"),
    [
        ({"eval_exact_match": 0.5}, "validation exact match, %"),
        ({"eval_cider_de": 50.0}, "validation CIDEr de"),
        ({"eval_a_f1": 0.5, "eval_b_cider": 50.0, "eval_mean": 25.25}, "validation mean"),
        ({"eval_a_f1": 0.5, "eval_b_f1": 0.7, "eval_mean": 0.6}, "validation, %"),
    ],
)
def test_a_title_says_what_is_measured(scores, title):
    assert title in panels(**scores)


def test_undefined_scores_make_no_panel_and_curves_are_told_in_words():
    logs = [{"step": 1, "loss": 2.0, "eval_f1": None}, {"step": 9, "loss": 0.5, "stage": ""}]
    (svg,) = draw_curves(logs)
    assert 'aria-label="loss: training 2 at step 1, 0.5 at step 9"' in svg
