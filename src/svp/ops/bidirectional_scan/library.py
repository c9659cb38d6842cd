"""The fused kernels as a PyTorch library op: one node for ``torch.compile``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from svp.ops.backend import compiled


@torch.library.custom_op("svp::bidirectional_scan", mutates_args=())
def bidirectional_scan_op(xz: Tensor, weights: list[Tensor], backend: str) -> Tensor:
    """out; `weights` are the fields of both directions, one after the other."""
    return _FORWARD[backend](xz, weights)


@torch.library.custom_op("svp::bidirectional_scan_backward", mutates_args=())
def bidirectional_scan_backward_op(
    grad_out: Tensor, xz: Tensor, weights: list[Tensor], needed: list[bool], backend: str
) -> list[Tensor]:
    """Gradients of those of `xz` and the weights that `needed` marks."""
    return _BACKWARD[backend](grad_out, xz, weights, needed)


_FORWARD = compiled("bidirectional_scan", "forward")
_BACKWARD = compiled("bidirectional_scan", "backward")


@bidirectional_scan_op.register_fake
def _(xz: Tensor, weights: list[Tensor], backend: str) -> Tensor:
    return xz.new_empty(xz.shape[0], xz.shape[1], xz.shape[2] // 2)


@bidirectional_scan_backward_op.register_fake
def _(grad_out: Tensor, xz: Tensor, weights: list[Tensor], needed: list[bool], backend: str) -> list[Tensor]:
    return [t.new_empty(t.shape) for t, need in zip([xz, *weights], needed, strict=True) if need]


def _setup_context(ctx: Any, inputs: tuple[Tensor, list[Tensor], str], output: Tensor) -> None:
    xz, weights, ctx.backend = inputs
    ctx.needed = [t.requires_grad for t in (xz, *weights)]
    ctx.save_for_backward(xz, *weights)


def _backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, list[Tensor | None], None]:
    xz, *weights = ctx.saved_tensors
    grads = iter(bidirectional_scan_backward_op(grad_out, xz, weights, ctx.needed, ctx.backend))
    grad_xz, *grad_weights = (next(grads) if need else None for need in ctx.needed)
    return grad_xz, grad_weights, None


bidirectional_scan_op.register_autograd(_backward, setup_context=_setup_context)
