"""The scan against numbers of the released code: every output, every gradient, both plain backends."""

import pytest
import torch
from torch import Tensor

from svp.ops import selective_scan
from tests.golden import TOLERANCE, Case, assert_close, load_case

NAMES = {"u": "x", "delta": "dt", "A": "A", "B": "B", "C": "C", "D": "D", "z": "z", "delta_bias": "dt_bias"}


@pytest.fixture(params=["selective_scan_n16", "selective_scan_n8_l37"])
def case(request: pytest.FixtureRequest) -> Case:
    return load_case(request.param)


def arguments(case: Case, dtype: torch.dtype, reverse: bool) -> dict[str, Tensor]:
    tensors = {ours: case.input[golden].to(dtype) for golden, ours in NAMES.items()}
    return {name: _turn(tensor) if reverse else tensor for name, tensor in tensors.items()}


def _turn(tensor: Tensor) -> Tensor:
    return tensor.flip(1) if tensor.ndim == 3 else tensor


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("backend", ["reference", "any_device"])
def test_scan(case: Case, backend: str, dtype: torch.dtype, reverse: bool) -> None:
    inputs = {name: t.requires_grad_() for name, t in arguments(case, dtype, reverse).items()}
    y, state = selective_scan(**inputs, reverse=reverse, return_last_state=True, backend=backend)
    ungated = selective_scan(**inputs | {"z": None}, reverse=reverse, backend=backend)
    assert y.dtype == state.dtype == dtype
    if reverse:
        y, ungated = y.flip(1), ungated.flip(1)
    assert_close({"y": y, "y_ungated": ungated, "last_state": state}, case.output, TOLERANCE[dtype]["output"])

    (y * case.input["cotangent_y"].to(dtype)).sum().backward()
    grads = {golden: inputs[ours].grad for golden, ours in NAMES.items()}
    if reverse:
        grads = {name: None if grad is None else _turn(grad) for name, grad in grads.items()}
    assert_close(grads, case.grad, TOLERANCE[dtype]["grad"])
