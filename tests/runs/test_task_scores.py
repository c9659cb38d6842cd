"""Scores of labels and numbers against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, r2_score

from svp.runs.label_scores import LabelScores
from svp.runs.number_scores import NumberScores
from svp.runs.task_scores import Outcome
from svp.tasks import MultiLabel, Regression, show_metric


def _labels(truth: np.ndarray, values: np.ndarray, lost: tuple[tuple[float, ...], ...] = ()) -> LabelScores:
    values = values.astype(np.float32)
    losses = np.ones(len(values))
    return LabelScores.of(Outcome(MultiLabel(), torch.from_numpy(values), values, truth.astype(float), losses, lost))


def test_labels_are_scored_as_scikit_learn_does() -> None:
    generator = np.random.default_rng(0)
    truth = generator.random((50, 4)) > 0.6
    values = np.clip(truth * 0.3 + generator.random((50, 4)) * 0.7, 0, 1).astype(np.float32)
    scores = _labels(truth, values)
    said = values >= 0.5
    assert scores.mean_average_precision == pytest.approx(average_precision_score(truth, values, average="macro"))
    assert scores.macro_f1 == pytest.approx(f1_score(truth, said, average="macro"))
    assert scores.micro_f1 == pytest.approx(f1_score(truth, said, average="micro"))
    assert scores.exact_match == pytest.approx((truth == said).all(axis=1).mean())
    assert set(scores.metrics()) == set(MultiLabel.metrics)


def test_a_label_that_no_image_has_is_left_out_of_the_means() -> None:
    truth, values = np.array([[1, 0], [0, 0]]), np.array([[0.9, 0.8], [0.1, 0.1]])
    scores = _labels(truth, values)
    assert (scores.mean_average_precision, scores.macro_f1) == (1.0, 1.0)
    assert scores.micro_f1 == pytest.approx(2 / 3)
    row = scores.per_class(("a", "b"))["b"]
    assert (row.n, row.accuracy, row.f1, row.average_precision, row.precision) == (0, None, None, None, 0.0)


def test_an_unreadable_image_misses_all_of_its_labels() -> None:
    truth, values = np.array([[1, 0], [0, 1]]), np.array([[0.9, 0.1], [0.1, 0.9]])
    scores = _labels(truth, values, lost=((1.0, 0.0),))
    assert scores.n == 3
    assert scores.exact_match == pytest.approx(2 / 3)
    assert scores.per_class(("a", "b"))["a"].accuracy == 0.5
    assert scores.micro_f1 == pytest.approx(4 / 5)


def test_numbers_are_scored_in_their_own_units() -> None:
    generator = np.random.default_rng(0)
    truth = generator.normal(100, 20, 40)
    values = (truth + generator.normal(0, 5, 40)).astype(np.float32)[:, None]
    outcome = Outcome(Regression(), torch.from_numpy(values), values, truth[:, None], np.ones(40), ((1.0,),))
    scores = NumberScores.of(outcome)
    assert scores.n == 41
    assert scores.mae == pytest.approx(np.abs(values[:, 0] - truth).mean())
    assert scores.rmse == pytest.approx(np.sqrt(((values[:, 0] - truth) ** 2).mean()))
    assert scores.r2 == pytest.approx(r2_score(truth, values[:, 0]))
    assert 0.9 < scores.rank_correlation <= 1
    assert set(scores.metrics()) == set(Regression.metrics)
    assert list(scores.figures(("weight",))) == ["scatter"]


def test_metrics_that_do_not_exist_are_none() -> None:
    same = NumberScores(np.ones(3), np.arange(3.0), np.ones(3))
    assert same.metrics()["r2"] is None
    assert same.metrics()["rank_correlation"] is None
    assert NumberScores(np.arange(3.0), np.ones(3), np.ones(3)).rank_correlation == 0


@pytest.mark.parametrize(
    ("metric", "value", "shown"),
    [("mae", 12.3456, "12.35"), ("r2", -0.5, "-0.500"), ("macro_f1", 0.5, "50.00%"), ("auroc", None, "-")],
)
def test_metrics_are_shown_in_their_units(metric: str, value: float | None, shown: str) -> None:
    assert show_metric(metric, value) == shown
