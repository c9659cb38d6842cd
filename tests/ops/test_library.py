"""What torch asks of an op, of every backward too, which the checks of the forward ops only pass through."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import svp
from svp.ops import Prompt, Prompts, add_rms_norm, bidirectional_scan, causal_conv1d, selective_scan
from svp.ops.bidirectional_scan.library import bidirectional_scan_backward_op
from svp.ops.bidirectional_scan.reference import flat_weights
from svp.ops.causal_conv1d.library import causal_conv1d_backward_op
from svp.ops.selective_scan.library import selective_scan_backward_op
from tests.ops.test_bidirectional_scan import case, mapped
from tests.ops.test_numba_conv import arguments as conv_arguments
from tests.ops.test_numba_scan import arguments as scan_arguments


def conv_backward() -> tuple[Any, ...]:
    x, weight, bias = conv_arguments(1, 4, 3).values()
    assert x is not None
    return [torch.randn_like(x)], x, weight, bias, [True, False, True], "silu", True, "numba"


def scan_backward(backend: str) -> tuple[Any, ...]:
    tensors = list(scan_arguments(1, 4, 3, 2).values())
    x, A = tensors[0], tensors[2]
    assert x is not None
    assert A is not None
    grad_state = torch.randn(1, *A.shape)
    return (
        [torch.randn_like(x), grad_state],
        *tensors,
        [True, False, True, True, False, True, True, False, True],
        True,
        backend,
    )


def bidirectional_backward() -> tuple[Any, ...]:
    xz, forward, backward = case(batch=1, length=5, d_inner=16, states=1)
    weights = flat_weights(forward, backward)
    return [torch.randn(1, 5, 16)], xz, weights, [k % 2 == 0 for k in range(1 + len(weights))], "numba"


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


def counted(function: Any) -> list[int]:
    """FLOPs of a call and of its backward, as PyTorch counts them."""
    counts = []
    with FlopCounterMode(display=False) as forward:
        outputs = function()
    counts.append(forward.get_total_flops())
    with FlopCounterMode(display=False) as backward:
        sum(output.sum() for output in (outputs if isinstance(outputs, tuple) else [outputs])).backward()
    return [*counts, backward.get_total_flops()]


def test_flops_of_the_convolution() -> None:
    x, weight = torch.randn(2, 5, 3, requires_grad=True), torch.randn(3, 4)
    values = 2 * 5 * 3
    # four taps; sigmoid and product. Then again, one pass of taps for x, and the slope of SiLU
    assert counted(lambda: causal_conv1d(x, weight, backend="numba")) == [values * (8 + 2), values * (8 + 6 + 8)]
    weight.requires_grad_()
    assert counted(lambda: causal_conv1d(x, weight, activation=None, backend="numba")) == [values * 8, values * 16]


@pytest.mark.parametrize("backend", ["any_device", "numba"])
def test_flops_of_the_scan(backend: str) -> None:
    tensors = {k: None if t is None else t.requires_grad_() for k, t in scan_arguments(2, 5, 3, 7).items()}
    values = 2 * 5 * 3

    def scan(*names: str) -> Any:
        return lambda: selective_scan(**{name: tensors[name] for name in names}, backend=backend)  # type: ignore[arg-type]

    least, most = ("x", "dt", "A", "B", "C"), tuple(tensors)
    assert counted(scan(*least))[0] == values * (7 * 7 + 2)
    # states and y again, g, its sum with B, e, its sum with A; A, B, C, z. Softplus, step x, bias, skip, gate; x, dt, D, z
    per_state, per_value = 5 + 8 + 2 * 4, 2 + 1 + 2 + 3 + 5 + 2 + 6
    assert counted(scan(*most)) == [values * (7 * 7 + 2 + 1 + 2 + 3), values * (per_state * 7 + per_value)]


def test_flops_of_the_norm() -> None:
    hidden, residual, activation = (torch.randn(2, 3, 16, requires_grad=True) for _ in range(3))
    prompts = Prompts([Prompt(activation, torch.ones(16))])
    count = counted(lambda: add_rms_norm(hidden, residual, torch.ones(16), prompts=prompts, backend="numba"))
    assert count == [2 * 3 * 16 * (4 + 1 + 4), 2 * 3 * 16 * (10 + 2 + 6)]


def test_flops_of_both_directions() -> None:
    xz, forward, backward = case(batch=2, length=5, d_inner=16, d_conv=4, dt_rank=3, d_state=7)
    xz.requires_grad_()
    frozen = [mapped(Tensor.detach, side) for side in (forward, backward)]
    values, projections = 2 * 5 * 16, 2 * 2 * 5 * (16 * (3 + 14) + 16 * 3)
    convolution, scan = values * 10, values * (7 * 7 + 2 + 1 + 2)
    assert counted(lambda: bidirectional_scan(xz, *frozen, backend="numba")) == [
        2 * (convolution + scan + projections) + 5 * values,
        # both convolutions again and their gradients; B and C need theirs in any case
        2 * (convolution + values * 22 + 2 * projections)
        + 2 * values * ((5 + 8 + 4) * 7 + 2 + 1 + 2 + 5 + 2 * 7 + 2)
        + 12 * values,
    ]
    # composed of PyTorch's products and of ops that count themselves: the same, but for the gate
    composed = counted(lambda: bidirectional_scan(xz, *frozen, backend="any_device"))[0]
    assert composed == 2 * (values * 7 * 7 + projections + values * (2 + 1 + 2 + 3))


def test_a_counter_sees_the_scans_of_a_model() -> None:
    model = svp.create_model("vim_nano_patch4_32", num_classes=10).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.randn(1, 3, 32, 32))
    counts = {str(op): count for op, count in counter.get_flop_counts()["Global"].items()}
    assert counts["svp.bidirectional_scan"] > counter.get_total_flops() / 3
