"""Thresholds, parsing and strata of several labels per image, and what is said of one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import f1_score

from svp.errors import InputError
from svp.runs.predict import Prediction
from svp.tasks import MultiLabel, Regression, SingleLabel, read_task
from svp.tasks.multi_label import choose_thresholds

NAMES = ("big", "even", "loop")
COUNT = st.integers(2, 20)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_threshold_has_a_higher_f1_than_the_one_that_is_chosen(data: st.DataObject) -> None:
    images = data.draw(COUNT)
    # few different probabilities, so that many are equal
    steps = data.draw(arrays(np.int64, images, elements=st.integers(0, 6)))
    probabilities = (steps / 6).astype(np.float32)
    truth = data.draw(arrays(np.bool_, images))
    (threshold,) = choose_thresholds(probabilities[:, None], truth[:, None])
    if truth.all() or not truth.any():
        assert threshold == 0.5
        return
    reached = f1_score(truth, probabilities.astype(np.float64) >= threshold)
    others = [f1_score(truth, probabilities >= cut, zero_division=0.0) for cut in np.unique(probabilities)]
    assert reached == pytest.approx(max(others))
    assert 0 <= threshold <= 1


def test_of_equal_thresholds_the_one_closest_to_a_half_is_taken() -> None:
    assert choose_thresholds([[0.9], [0.2]], [[1], [0]]) == (0.5,)
    assert choose_thresholds([[0.9], [0.7]], [[1], [0]]) == (pytest.approx(0.8),)
    assert choose_thresholds([[0.9], [0.7]], [[1], [1]]) == (0.5,)


@given(st.lists(st.text(st.characters(exclude_characters=";", exclude_categories=("Z", "C")), min_size=1)))
def test_labels_are_read_as_they_are_joined(labels: list[str]) -> None:
    assert MultiLabel.parse(" ; ".join(labels)) == tuple(dict.fromkeys(labels))
    assert MultiLabel.parse(";;" + ";".join(labels) + ";") == tuple(dict.fromkeys(labels))


def test_strata_are_rarest_labels_and_no_stratum_is_too_small_to_split() -> None:
    targets = [(1.0, 1.0, 0.0)] * 4 + [(0.0, 1.0, 0.0)] * 6 + [(0.0, 0.0, 0.0)] * 3 + [(0.0, 1.0, 1.0)] * 2
    strata = MultiLabel().stratify(targets, NAMES)
    assert strata.names == ("big", "even", "none")
    assert [strata.names[strata.of(target)] for target in sorted(set(targets), reverse=True)] == [
        "big",
        "even",  # loop has two images, which go with the most
        "even",
        "none",
    ]


def test_answers_are_the_labels_from_their_thresholds_on() -> None:
    task = MultiLabel((0.5, 0.9, 0.1))
    (answer,) = task.answers(torch.tensor([[0.5, 0.8, 0.2]]), NAMES, 1)
    assert answer["labels"] == ("big", "loop")
    assert answer["classes"] == ("even", "big", "loop")
    columns = task.columns(NAMES, 5)
    prediction = Prediction(__file__, **answer)  # type: ignore[arg-type]
    assert columns.names == ["labels", "probability_big", "probability_even", "probability_loop"]
    assert columns.cells(prediction)[0] == "big;loop"
    assert columns.cells(prediction)[1:] == pytest.approx([0.5, 0.8, 0.2])
    assert columns.record(prediction)["probabilities"]["even"] == pytest.approx(0.8)
    assert columns.shown(prediction) == ["big 50.0%, loop 20.0%", "even 80.0%"]


def test_a_threshold_is_kept_to_the_last_digit() -> None:
    """What is said on the validation images is what F1 was measured on."""
    p = np.array([[0.1], [0.30000001], [0.3], [0.7]], dtype=np.float32)
    truth = np.array([[0], [1], [0], [1]])
    task = MultiLabel().tuned(p, truth)
    said = [bool(a["labels"]) for a in task.answers(torch.from_numpy(p), ("x",), 1)]
    assert said == [False, True, p[2, 0] >= task.thresholds[0], True]
    assert read_task(task.to_dict()) == task


def test_losses() -> None:
    outputs, targets = torch.randn(4, 3), torch.tensor([[1.0, 0, 1]] * 4)
    task = MultiLabel()
    bce = task.criterion("bce")(outputs, targets)
    assert bce == pytest.approx(float(task.losses_of(outputs, targets).mean()))
    assert task.criterion("asymmetric")(outputs, targets) < bce  # easy negatives count less


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "ranking"}, "task is 'ranking', expected multi, regression, single"),
        ({"kind": "multi", "cuts": [0.5]}, "task multi cannot be read"),
        ({"kind": "regression", "mean": 1.0, "std": 0.0}, "std is 0.0, expected a number above 0"),
        ({"kind": "regression", "mean": "1"}, "mean is '1', expected a number"),
    ],
)
def test_descriptions_that_cannot_be_read(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_task(values)


def test_what_is_not_said_is_one_class_per_image() -> None:
    assert read_task(None) == SingleLabel()
    assert read_task({"kind": "regression", "mean": 3.0, "std": 2.0}) == Regression(3.0, 2.0)


def test_views_are_averaged_in_what_they_mean() -> None:
    views = [torch.randn(3, 2), torch.randn(3, 2)]
    for task in (SingleLabel(), MultiLabel(), Regression(5.0, 2.0)):
        mean = torch.stack([task.activate(view) for view in views]).mean(0)
        assert torch.allclose(task.activate(task.averaged(views)), mean, atol=1e-5)
