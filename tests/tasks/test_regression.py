"""Numbers are standardized on the way in and come back in their own units; ranges that images are stratified by."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from svp.errors import InputError
from svp.runs.predict import Prediction
from svp.tasks import Regression
from svp.tasks.task import SMALLEST


def test_the_head_is_standardized_and_what_it_says_is_not() -> None:
    task = Regression().fitted([(10.0,), (20.0,), (30.0,)])
    assert (task.mean, task.std) == (20.0, pytest.approx(np.std([10, 20, 30])))
    outputs = torch.tensor([[0.0], [1.0]])
    assert task.activate(outputs)[:, 0].tolist() == pytest.approx([20.0, 20.0 + task.std])
    assert task.losses_of(outputs, task.activate(outputs)).abs().max() < 1e-12
    assert task.criterion("squared")(outputs, torch.tensor([[20.0], [20.0]])) == pytest.approx(0.5)


def test_large_numbers_keep_their_digits_in_low_precision() -> None:
    task = Regression(2000.0, 10.0)
    assert float(task.activate(torch.tensor([[0.25]], dtype=torch.bfloat16))) == 2002.5


def test_equal_numbers_teach_nothing() -> None:
    with pytest.raises(InputError, match="all 2 training images have the number 7: nothing can be learned"):
        Regression().fitted([(7.0,), (7.0,)])


@given(st.lists(st.one_of(st.integers(0, 4).map(float), st.floats(-1e6, 1e6)), min_size=1, max_size=80))
def test_every_number_is_in_one_range_and_ranges_are_large_enough(numbers: list[float]) -> None:
    targets = [(number,) for number in numbers]
    strata = Regression().stratify(targets, ("x",))
    found = [strata.of(target) for target in targets]
    sizes = np.bincount(found, minlength=len(strata.names))
    assert len(sizes) == len(strata.names) <= 10
    assert sizes.min() >= min(SMALLEST, len(numbers))
    in_order = [stratum for _, stratum in sorted(zip(numbers, found, strict=True))]
    assert in_order == sorted(in_order)
    assert strata.of((1e9,)) == len(strata.names) - 1


@pytest.mark.parametrize("cell", ["", "red", "1,5", "nan", "inf", "3 kg", "1_0"])
def test_what_is_no_number(cell: str) -> None:
    with pytest.raises(InputError, match="is no number"):
        Regression.parse(cell)


def test_columns() -> None:
    columns = Regression().columns(("age",), 5)
    (answer,) = Regression().answers(torch.tensor([[12.3456789]]), ("age",), 5)
    prediction = Prediction(__file__, **answer)  # type: ignore[arg-type]
    assert (columns.names, columns.header) == (["value"], ["age"])
    assert [columns.text(cell) for cell in columns.cells(prediction)] == ["12.34568"]
    assert columns.record(prediction) == {"value": pytest.approx(12.3456789)}
    assert columns.shown(prediction) == ["12.35"]
    assert columns.cells(Prediction(__file__, error="broken")) == [None]  # type: ignore[arg-type]
