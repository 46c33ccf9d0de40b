import logging

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from openpali.eval.image_encoders.linear_probe import FIXED, REGULARISATIONS, draw_shots, linear_probe


def blobs(per_class=40, classes=4, width=8, spread=0.5, seed=0):
    """Features around one centre a class, of very different scales, and their labels."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, width))
    labels = np.repeat(np.arange(classes), per_class)
    features = centres[labels] + spread * rng.normal(size=(len(labels), width))
    return features * np.logspace(-3, 3, width), [f"class {i}" for i in labels]


def test_separable_classes_are_classified_and_shuffled_labels_are_not():
    features, labels = blobs(spread=0.1)
    result = linear_probe(features, labels, shots=5)
    assert (result.mean, result.std, result.accuracies) == (1.0, 0.0, [1.0] * 3)
    assert (result.classes, result.shots, result.tests, result.left_out) == (4, 5, 4 * 35, [])
    shuffled = np.random.default_rng(1).permutation(labels).tolist()
    noise = linear_probe(features, shuffled, shots=5)
    assert abs(noise.mean - noise.chance) < 0.1
    assert noise.chance == 0.25


def test_mean_and_deviation_over_seeds():
    features, labels = blobs(spread=2.0)
    result = linear_probe(features, labels, shots=10, seeds=range(4))
    assert len(set(result.accuracies)) > 1
    assert result.mean == pytest.approx(np.mean(result.accuracies))
    assert result.std == pytest.approx(np.std(result.accuracies, ddof=1))
    assert set(result.regularisations) <= set(REGULARISATIONS)
    assert linear_probe(features, labels, shots=10, seeds=range(4)) == result
    assert linear_probe(features, labels, shots=10, seeds=[3]).accuracies == result.accuracies[3:]


@pytest.mark.filterwarnings("error")
def test_one_shot_is_plain_logistic_regression_on_standardised_features():
    features, labels = blobs(spread=1.0)
    result = linear_probe(torch.from_numpy(features), labels, shots=1, seeds=[7])
    known = np.array(labels)
    train, rest = draw_shots(known, np.arange(len(known)), sorted(set(labels)), 1, 7)
    scale = lambda rows: (rows - features[train].mean(0)) / features[train].std(0)  # noqa: E731
    probe = LogisticRegression(C=FIXED, max_iter=1000).fit(scale(features[train]), known[train])
    assert result.accuracies == [pytest.approx(probe.score(scale(features[rest]), known[rest]))]


def test_shots_are_the_same_number_of_each_class_and_never_tested():
    labels = np.array(list("aabbbbcccc"))
    for seed in range(5):
        train, rest = draw_shots(labels, np.arange(2, 10), ["b", "c"], 3, seed)
        assert sorted(labels[train]) == list("bbbccc")
        assert not set(train) & set(rest)
        assert sorted([*train, *rest]) == list(range(2, 10))


def test_rare_classes_are_left_out_with_a_warning(caplog):
    features, labels = blobs(per_class=6, spread=0.1)
    labels = ["rare" if i in (0, 1) else label for i, label in enumerate(labels)]
    with caplog.at_level(logging.WARNING):
        result = linear_probe(features, labels, shots=5)
    # class 0 has four examples left
    assert result.left_out == ["class 0", "rare"]
    assert (result.classes, result.tests) == (3, 3)
    assert "2 classes have too few examples for 5 shots and 1 to test on: class 0, rare" in caplog.text
    with pytest.raises(ValueError, match=r"0 of 5 classes have the 7 examples .* class 1 \(6\).* Give fewer shots"):
        linear_probe(features, labels, shots=6)


def test_a_test_set_of_its_own():
    """All shots may be used then; examples of other classes do not count."""
    features, labels = blobs(per_class=5, spread=0.3)
    other, names = blobs(per_class=9, spread=0.3, seed=5)
    names[0] = "unknown"
    result = linear_probe(features, labels, shots=5, test=(other, names))
    assert (result.classes, result.tests) == (4, 35)
    assert result.mean > 0.9
    with pytest.raises(ValueError, match="no test example is of the 4 classes"):
        linear_probe(features, labels, shots=5, test=(other, ["unknown"] * 36))
    with pytest.raises(ValueError, match=r"test features are float\[36, 8\]"):
        linear_probe(features, labels, shots=5, test=(other[:, :2], names))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": np.zeros((3, 2))}, r"features are finite float\[160, D\]"),
        ({"features": np.full((160, 8), np.nan)}, "features are finite"),
        ({"shots": 0}, "shots=0"),
        ({"seeds": []}, r"seeds=\[\]"),
        ({"labels": ["one"] * 160}, "1 of 1 classes"),
    ],
)
def test_what_cannot_be_probed_is_refused(change, message):
    features, labels = blobs()
    with pytest.raises(ValueError, match=message):
        linear_probe(**({"features": features, "labels": labels} | change))
