"""What torch asks of an op, of every backward too, which the checks of the forward ops only pass through."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from svp.ops.bidirectional_scan.library import bidirectional_scan_backward_op
from svp.ops.causal_conv1d.library import causal_conv1d_backward_op
from svp.ops.selective_scan.library import selective_scan_backward_op
from tests.ops.test_bidirectional_scan import case
from tests.ops.test_numba_conv import arguments as conv_arguments
from tests.ops.test_numba_scan import arguments as scan_arguments


def conv_backward() -> tuple[Any, ...]:
    x, weight, bias = conv_arguments(1, 4, 3).values()
    assert x is not None
    return torch.randn_like(x), x, weight, bias, "silu", True, [True, False, True], "numba"


def scan_backward(backend: str) -> tuple[Any, ...]:
    tensors = list(scan_arguments(1, 4, 3, 2).values())
    x, A = tensors[0], tensors[2]
    assert x is not None
    assert A is not None
    grad_state = torch.randn(1, *A.shape)
    return torch.randn_like(x), grad_state, *tensors, [True, False, True, True, False, True, True, False], True, backend


def bidirectional_backward() -> tuple[Any, ...]:
    xz, forward, backward = case(batch=1, length=5, d_inner=16)
    weights: list[Tensor] = [*forward, *backward]
    return torch.randn(1, 5, 16), xz, weights, [k % 2 == 0 for k in range(1 + len(weights))], "numba"


@pytest.mark.parametrize(
    ("op", "arguments"),
    [
        (causal_conv1d_backward_op, conv_backward()),
        (selective_scan_backward_op, scan_backward("any_device")),
        (selective_scan_backward_op, scan_backward("numba")),
        (bidirectional_scan_backward_op, bidirectional_backward()),
    ],
    ids=["causal_conv1d", "selective_scan, any_device", "selective_scan, numba", "bidirectional_scan"],
)
def test_opcheck_of_the_backward(op: Any, arguments: tuple[Any, ...]) -> None:
    torch.library.opcheck(op, arguments)
