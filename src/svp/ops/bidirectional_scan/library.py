"""The fused kernels as a PyTorch library op: one node for ``torch.compile``, a gradient for `xz` alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


@torch.library.custom_op("svp::bidirectional_scan", mutates_args=())
def bidirectional_scan_op(xz: Tensor, weights: list[Tensor]) -> Tensor:
    """out; `weights` are the fields of both directions, one after the other."""
    from svp.ops.bidirectional_scan import cpu_numba

    return cpu_numba.forward(xz, weights)


@torch.library.custom_op("svp::bidirectional_scan_backward", mutates_args=())
def bidirectional_scan_backward_op(grad_out: Tensor, xz: Tensor, weights: list[Tensor]) -> Tensor:
    """Gradient of `xz`."""
    from svp.ops.bidirectional_scan import cpu_numba

    return cpu_numba.backward(grad_out, xz, weights)


@bidirectional_scan_op.register_fake
def _(xz: Tensor, weights: list[Tensor]) -> Tensor:
    return xz.new_empty(xz.shape[0], xz.shape[1], xz.shape[2] // 2)


@bidirectional_scan_backward_op.register_fake
def _(grad_out: Tensor, xz: Tensor, weights: list[Tensor]) -> Tensor:
    return xz.new_empty(xz.shape)


def _setup_context(ctx: Any, inputs: tuple[Tensor, list[Tensor]], output: Tensor) -> None:
    xz, weights = inputs
    ctx.save_for_backward(xz, *weights)


def _backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, list[None]]:
    xz, *weights = ctx.saved_tensors
    return bidirectional_scan_backward_op(grad_out, xz, weights), [None] * len(weights)


bidirectional_scan_op.register_autograd(_backward, setup_context=_setup_context)
