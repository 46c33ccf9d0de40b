"""Few-shot linear probe: accuracy of a linear classifier on frozen features of a few images per class.

The PaLI-3 paper compares its two image encoders by it. The classifier is scikit-learn's logistic regression on
standardised features; its regularisation is selected on a fifth of the shots, at least one per class, held out.
"""

import logging
import warnings
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np

logger = logging.getLogger(__name__)

REGULARISATIONS = (1e-4, 1e-3, 1e-2, 0.1, 1.0)
"""scikit-learn's C, the inverse of the strength, on standardised features."""
FIXED = 1e-2
"""C with one shot per class, which leaves no held-out shot."""
MISSING = 'the linear probe needs scikit-learn: pip install "openpali[eval]"'


@dataclass(frozen=True)
class ProbeResult:
    """Accuracy over several draws of the shots.

    Attributes:
        mean: of the draws, in [0, 1].
        std: their standard deviation (of a sample: divided by one less than their number); 0 for one draw.
        accuracies: of each draw.
        regularisations: the selected C of each draw.
        shots: training examples per class.
        classes: number of classes.
        tests: test examples of each draw.
        left_out: classes with too few examples.
        chance: accuracy of always predicting the most frequent class.
    """

    mean: float
    std: float
    accuracies: list[float]
    regularisations: list[float]
    shots: int
    classes: int
    tests: int
    left_out: list[str]
    chance: float

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def linear_probe(
    features: Any,
    labels: Sequence[Hashable],
    shots: int = 10,
    seeds: Sequence[int] = (0, 1, 2),
    test: tuple[Any, Sequence[Hashable]] | None = None,
) -> ProbeResult:
    """Train on `shots` examples of each class, test on all others or on a separate set.

    Args:
        features: float[n, D], frozen: a tensor on the CPU or an array.
        labels: n classes.
        shots: examples of each class to train on.
        seeds: one draw of shots for each.
        test: features and labels to test on; the examples that are no shots when None.

    Returns:
        Accuracies; a class with too few examples is left out of training and test, with a warning.

    Raises:
        ValueError: fewer than two classes have enough examples, or an argument is invalid.
        ImportError: scikit-learn is missing.
    """
    table, known = np.asarray(features, dtype=np.float32), np.asarray([str(label) for label in labels])
    if table.ndim != 2 or len(table) != len(known) or not np.isfinite(table).all():
        raise ValueError(f"features are finite float[{len(known)}, D], one row a label, not {list(table.shape)}")
    if shots < 1 or not len(seeds):
        raise ValueError(f"shots={shots}, seeds={list(seeds)}: at least one of each")
    classes, left_out = usable_classes(known, shots, 1 if test is None else 0)
    rows, scores = np.flatnonzero(np.isin(known, classes)), []
    for seed in seeds:
        train, rest = draw_shots(known, rows, classes, shots, seed)
        if test is None:
            held_features, held = table[rest], known[rest]
        else:
            held_features, held = test_examples(test, classes, table.shape[1])
        scores.append(fit(table[train], known[train], held_features, held, shots, seed))
    accuracies = [accuracy for accuracy, _ in scores]
    spread = float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else 0.0
    most = max(Counter(held.tolist()).values()) / len(held)
    chosen = [regularisation for _, regularisation in scores]
    mean = float(np.mean(accuracies))
    return ProbeResult(mean, spread, accuracies, chosen, shots, len(classes), len(held), left_out, most)


def usable_classes(labels: np.ndarray, shots: int, more: int) -> tuple[list[str], list[str]]:
    """Classes with `shots + more` examples, and those with fewer, with a warning."""
    counts = Counter(labels.tolist())
    classes = sorted(name for name, count in counts.items() if count >= shots + more)
    left_out = sorted(set(counts) - set(classes))
    needed = f"{shots} shots" + (f" and {more} to test on" if more else "")
    if len(classes) < 2:
        most = ", ".join(f"{name} ({count})" for name, count in counts.most_common(3))
        raise ValueError(
            f"{len(classes)} of {len(counts)} classes have the {shots + more} examples that {needed} take; the most"
            f" frequent are {most or 'none'}. Give fewer shots or more examples."
        )
    if left_out:
        shown = ", ".join(left_out[:5]) + (", ..." if len(left_out) > 5 else "")
        logger.warning("%d classes have too few examples for %s: %s", len(left_out), needed, shown)
    return classes, left_out


def draw_shots(
    labels: np.ndarray, rows: np.ndarray, classes: Sequence[str], shots: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the training examples, the same number of each class, and the others of `rows`."""
    rng = np.random.default_rng(seed)
    train = np.concatenate([rng.permutation(np.flatnonzero(labels == name))[:shots] for name in classes])
    return train, np.setdiff1d(rows, train)


def test_examples(
    test: tuple[Any, Sequence[Hashable]], classes: Sequence[str], width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels of a test set's examples of the known classes."""
    features, labels = np.asarray(test[0], dtype=np.float32), np.asarray([str(label) for label in test[1]])
    if features.shape != (len(labels), width):
        raise ValueError(f"test features are float[{len(labels)}, {width}], not {list(features.shape)}")
    known = np.isin(labels, classes)
    if not known.any():
        raise ValueError(f"no test example is of the {len(classes)} classes that have shots")
    return features[known], labels[known]


def fit(
    features: np.ndarray, labels: np.ndarray, held_features: np.ndarray, held: np.ndarray, shots: int, seed: int
) -> tuple[float, float]:
    """Accuracy on the test examples, and the C that was selected on a part of the shots."""
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import GridSearchCV, StratifiedShuffleSplit
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise ImportError(MISSING) from error
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=FIXED, max_iter=1000))
    if shots > 1:
        # one fold: of ten shots per class two are held out, and the best C is trained on all ten
        fold = StratifiedShuffleSplit(1, test_size=len(labels) // shots * max(1, shots // 5), random_state=seed)
        probe = GridSearchCV(probe, {"logisticregression__C": list(REGULARISATIONS)}, cv=fold)
    with warnings.catch_warnings():
        # with one or two shots per class, scikit-learn takes labels for regression targets
        warnings.filterwarnings("ignore", message="The number of unique classes is greater")
        probe.fit(features, labels)
    chosen = probe.best_params_["logisticregression__C"] if isinstance(probe, GridSearchCV) else FIXED
    return float(cast(float, probe.score(held_features, held))), chosen
