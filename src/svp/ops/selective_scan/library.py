"""The scan as a PyTorch library op."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from svp.ops.library import define_op, size
from svp.ops.selective_scan.reference import Inputs, state_dtype


def scan_flops(inputs: Any, reverse: bool) -> int:
    """Additions, products and calls of exp, softplus and sigmoid, each counted as one operation.

    Per token, channel and state 7: step A, its exp, its product with h, step x B and its addition, C h and its addition.
    Per token and channel: softplus and step x, and if given dt_bias 1, D 2, z 3 (SiLU and the product with it).
    Published figures of Mamba often take 9 per state, without the rest.
    """
    d_state = inputs.A[1]
    return size(inputs.x) * (7 * d_state + 2 + _of_options(inputs))


def scan_backward_flops(inputs: Any, needed: list[bool], reverse: bool) -> int:
    """The equations of ``any_device``, counted as in ``scan_flops``.

    Per token, channel and state 5 for the states again; 8 for g, its sum with B, e and its sum with A; and 2 for each of the
    gradients of A, B, C and z that is needed. Per token and channel: the terms of the forward pass again; 5 for the
    gradients of x and dt; the gradients of D 2 and of z 6.
    """
    _, _, need_A, need_B, need_C, need_D, need_z, *_ = needed
    per_state = 5 + 8 + 2 * (need_A + need_B + need_C + need_z)
    return size(inputs.x) * (per_state * inputs.A[1] + 2 + _of_options(inputs) + 5 + 2 * need_D + 6 * need_z)


def _of_options(inputs: Any) -> int:
    return (inputs.dt_bias is not None) + 2 * (inputs.D is not None) + 3 * (inputs.z is not None)


def _fake(inputs: Inputs, reverse: bool) -> tuple[Tensor, Tensor]:
    x = inputs.x
    return x.new_empty(x.shape), x.new_empty(x.shape[0], x.shape[2], inputs.A.shape[1], dtype=state_dtype(inputs))


selective_scan_op, selective_scan_backward_op = define_op(
    "selective_scan",
    Inputs,
    "bool reverse",
    outputs=2,
    fake=_fake,
    flops=scan_flops,
    backward_flops=scan_backward_flops,
)
