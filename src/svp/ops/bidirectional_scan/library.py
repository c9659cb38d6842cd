"""The fused kernels as a PyTorch library op."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from svp.ops.bidirectional_scan.reference import Direction, Inputs
from svp.ops.causal_conv1d.library import conv_backward_flops, conv_flops
from svp.ops.causal_conv1d.reference import Inputs as ConvInputs
from svp.ops.library import define_op, size
from svp.ops.selective_scan.library import scan_backward_flops, scan_flops
from svp.ops.selective_scan.reference import Inputs as ScanInputs


def bidirectional_flops(inputs: Any) -> int:
    """Both directions: convolution with SiLU, scan with skip, and two operations per weight and token of both projections.

    Per token and channel 5 more: the sum of both outputs, its half, SiLU(z) and the product with it.
    """
    total = 5 * size(_channels(inputs))
    for weights, conv, scan in _sides(inputs):
        total += conv_flops(conv, "silu", False) + scan_flops(scan, False) + _projections(inputs, weights)
    return total


def bidirectional_backward_flops(inputs: Any, needed: list[bool]) -> int:
    """Convolutions, projections and outputs are computed again; a projection takes its operations again for every gradient.

    Per token and channel 12 more: SiLU(z) / 2 and its product with the gradient 4; SiLU'(z) 4, the product with it and with
    half the gradient 2, with the sum of both outputs 2.
    """
    need_weights = any(needed[1:15])
    of_conv = [True, need_weights, need_weights]
    of_scan = [True, True, need_weights, True, True, need_weights, False, need_weights]
    total = 12 * size(_channels(inputs))
    for weights, conv, scan in _sides(inputs):
        total += conv_flops(conv, "silu", False) + conv_backward_flops(conv, of_conv, "silu", False)
        total += (2 + need_weights) * _projections(inputs, weights)
        total += scan_backward_flops(scan, of_scan, False) + size(scan.x) * (2 * scan.A[1] + 2)
    return total


def _channels(inputs: Any) -> tuple[int, int, int]:
    """Shape of x, of z and of the output."""
    batch, length, width = inputs.xz
    return batch, length, width // 2


def _sides(inputs: Any) -> Iterator[tuple[Any, Any, Any]]:
    """The shapes of either direction: its weights, the tensors of its convolution and those of its scan."""
    batch, length, _ = inputs.xz
    x: Any = _channels(inputs)
    for own in (inputs.weights[:7], inputs.weights[7:14]):
        weights = Direction(*own)
        per_state: Any = (batch, length, weights.A[1])
        conv = ConvInputs(x, weights.conv_weight, weights.conv_bias)
        yield weights, conv, ScanInputs(x, x, weights.A, per_state, per_state, weights.D, None, weights.dt_bias)


def _projections(inputs: Any, weights: Any) -> int:
    batch, length, _ = inputs.xz
    return 2 * batch * length * (size(weights.x_proj) + size(weights.dt_proj))


def _fake(inputs: Inputs) -> Tensor:
    batch, length, width = inputs.xz.shape
    return inputs.xz.new_empty(batch, length, width // 2)


bidirectional_scan_op, bidirectional_scan_backward_op = define_op(
    "bidirectional_scan",
    Inputs,
    "",
    outputs=1,
    fake=_fake,
    flops=bidirectional_flops,
    backward_flops=bidirectional_backward_flops,
)
