"""The fused kernels as a PyTorch library op: one node for ``torch.compile``."""

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
def bidirectional_scan_backward_op(grad_out: Tensor, xz: Tensor, weights: list[Tensor], need_weights: bool) -> list[Tensor]:
    """Gradients of `xz` and, if needed, of all weights."""
    from svp.ops.bidirectional_scan import cpu_numba

    return cpu_numba.backward(grad_out, xz, weights, need_weights)


@bidirectional_scan_op.register_fake
def _(xz: Tensor, weights: list[Tensor]) -> Tensor:
    return xz.new_empty(xz.shape[0], xz.shape[1], xz.shape[2] // 2)


@bidirectional_scan_backward_op.register_fake
def _(grad_out: Tensor, xz: Tensor, weights: list[Tensor], need_weights: bool) -> list[Tensor]:
    return [t.new_empty(t.shape) for t in ([xz, *weights] if need_weights else [xz])]


def _setup_context(ctx: Any, inputs: tuple[Tensor, list[Tensor]], output: Tensor) -> None:
    xz, weights = inputs
    ctx.need_weights = any(weight.requires_grad for weight in weights)
    ctx.save_for_backward(xz, *weights)


def _backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, list[Tensor] | list[None]]:
    xz, *weights = ctx.saved_tensors
    grad_xz, *grads = bidirectional_scan_backward_op(grad_out, xz, weights, ctx.need_weights)
    return grad_xz, grads or [None] * len(weights)


bidirectional_scan_op.register_autograd(_backward, setup_context=_setup_context)
