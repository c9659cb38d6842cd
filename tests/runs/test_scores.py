"""Metrics against scikit-learn and by hand, with images that could not be read."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from svp.runs.scores import Scores
from svp.tasks import SingleLabel


def made(labels: list[int], logits: np.ndarray, unreadable: tuple[int, ...] = ()) -> Scores:
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    truth = np.asarray(labels)
    guesses = np.argsort(-logits, axis=1, kind="stable")[:, :5]
    return Scores(truth, guesses, shares.astype(np.float32), -np.log(shares[np.arange(len(truth)), truth]), unreadable)


def by_hand() -> Scores:
    """Two cats, both right; three dogs, one right, one a cat, one a bird; a bird that could not be read."""
    logits = np.log(np.array([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.5, 0.4, 0.1], [0.2, 0.2, 0.6]]))
    return made([0, 0, 1, 1, 1], logits, unreadable=(2,))


def test_by_hand() -> None:
    scores = by_hand()
    assert (scores.n, scores.top1, scores.top5) == (6, 3 / 6, 5 / 6)
    assert scores.balanced_accuracy == pytest.approx((1 + 1 / 3 + 0) / 3)
    assert scores.macro_f1 == pytest.approx((2 * 2 / (2 + 3) + 2 * 1 / (3 + 1) + 0) / 3)
    classes = scores.per_class(["cat", "dog", "bird"])
    assert (classes["cat"].accuracy, classes["cat"].n, classes["cat"].precision) == (1.0, 2, pytest.approx(2 / 3))
    assert (classes["dog"].accuracy, classes["dog"].precision) == (pytest.approx(1 / 3), 1.0)
    assert (classes["bird"].accuracy, classes["bird"].n, classes["bird"].precision, classes["bird"].f1) == (0, 1, 0, 0)
    assert scores.confusions() == [(1, 0, 1), (1, 2, 1)]
    assert scores.calibration_error == pytest.approx((abs(0.8 - 1) + abs(0.7 - 1) + abs(2 * 0.6 - 1) + abs(0.5 - 0)) / 5)


@pytest.mark.parametrize(("classes", "shown"), [(5, False), (6, True)])
def test_five_guesses_are_shown_where_they_can_miss(classes: int, shown: bool) -> None:
    rows = dict(made([0, 1], np.eye(2, classes)).rows())
    assert ("test top-5" in rows) is shown


@given(st.integers(2, 6), st.integers(1, 40), st.integers(0, 1000))
def test_metrics_are_those_of_scikit_learn(classes: int, n: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, n).tolist()
    scores = made(labels, generator.normal(size=(n, classes)))
    guesses, present = scores.guesses[:, 0], sorted(set(labels))
    assert scores.top1 == pytest.approx(metrics.accuracy_score(labels, guesses))
    assert scores.macro_f1 == pytest.approx(metrics.f1_score(labels, guesses, labels=present, average="macro"))
    assert scores.balanced_accuracy == pytest.approx(metrics.recall_score(labels, guesses, labels=present, average="macro"))
    some = [label for label in present if len(present) > 1]
    one_by_one = [metrics.roc_auc_score(np.equal(labels, label), scores.probabilities[:, label]) for label in some]
    assert scores.auroc == pytest.approx(np.mean(one_by_one) if some else np.nan, nan_ok=True)
    precisions = [metrics.average_precision_score(np.equal(labels, c), scores.probabilities[:, c]) for c in some]
    assert scores.average_precision == pytest.approx(np.mean(precisions) if some else np.nan, nan_ok=True)
    assert set(scores.metrics()) == set(SingleLabel.metrics)
    assert (scores.metrics()["auroc"] is None) == (not some)
