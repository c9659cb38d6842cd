"""The convolution as a PyTorch library op."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from svp.ops.causal_conv1d.reference import Inputs
from svp.ops.library import define_op, size


def conv_flops(inputs: Any, activation: str | None, reverse: bool) -> int:
    """A product and an addition per tap, and two operations for the SiLU: sigmoid and product."""
    return size(inputs.x) * (2 * inputs.weight[1] + 2 * (activation == "silu"))


def conv_backward_flops(inputs: Any, needed: list[bool], activation: str | None, reverse: bool) -> int:
    """Per value of x and tap, two operations for the gradient of x and two for those of the weights.

    With SiLU the convolution is computed again, and the gradient is multiplied by s (1 + a (1 - s)), s = sigmoid(a).
    """
    passes = needed[0] + (needed[1] or needed[2])
    again = 2 * inputs.weight[1] + 6 if activation == "silu" else 0
    return size(inputs.x) * (2 * inputs.weight[1] * passes + again)


def _fake(inputs: Inputs, activation: str | None, reverse: bool) -> Tensor:
    return inputs.x.new_empty(inputs.x.shape)


causal_conv1d_op, causal_conv1d_backward_op = define_op(
    "causal_conv1d",
    Inputs,
    "str? activation, bool reverse",
    outputs=1,
    fake=_fake,
    flops=conv_flops,
    backward_flops=conv_backward_flops,
)
