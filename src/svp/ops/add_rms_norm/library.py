"""The kernels as a PyTorch library op: one node for ``torch.compile`` and ``torch.export``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from svp.ops.backend import compiled


@torch.library.custom_op("svp::add_rms_norm", mutates_args=())
def add_rms_norm_op(
    hidden: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    pre_activations: list[Tensor],
    scales: list[Tensor],
    prompted: Tensor | None,
    eps: float,
    dtype: torch.dtype,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """The sum in float32, and the norm in `dtype`; `prompted` is given where there are prompts."""
    return _FORWARD[backend](hidden, residual, weight, pre_activations, scales, prompted, eps, dtype)


@torch.library.custom_op("svp::add_rms_norm_backward", mutates_args=())
def add_rms_norm_backward_op(
    grad_total: Tensor,
    grad_normed: Tensor,
    total: Tensor,
    weight: Tensor,
    pre_activations: list[Tensor],
    scales: list[Tensor],
    prompted: Tensor | None,
    eps: float,
    needed: list[bool],
    backend: str,
) -> list[Tensor]:
    """Gradients of those that `needed` marks, in the order: the sum, weight, pre_activations, scales.

    That of the sum, in float32, is that of whatever was added up.
    """
    return _BACKWARD[backend](grad_total, grad_normed, total, weight, pre_activations, scales, prompted, eps, needed)


_FORWARD = compiled("add_rms_norm", "forward")
_BACKWARD = compiled("add_rms_norm", "backward")


@add_rms_norm_op.register_fake
def _(
    hidden: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    pre_activations: list[Tensor],
    scales: list[Tensor],
    prompted: Tensor | None,
    eps: float,
    dtype: torch.dtype,
    backend: str,
) -> tuple[Tensor, Tensor]:
    return hidden.new_empty(hidden.shape, dtype=torch.float32), hidden.new_empty(hidden.shape, dtype=dtype)


@add_rms_norm_backward_op.register_fake
def _(
    grad_total: Tensor,
    grad_normed: Tensor,
    total: Tensor,
    weight: Tensor,
    pre_activations: list[Tensor],
    scales: list[Tensor],
    prompted: Tensor | None,
    eps: float,
    needed: list[bool],
    backend: str,
) -> list[Tensor]:
    inputs = (total, weight, *pre_activations, *scales)
    return [t.new_empty(t.shape) for t, need in zip(inputs, needed, strict=True) if need]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    hidden, residual, weight, pre_activations, scales, prompted, ctx.eps, _, ctx.backend = inputs
    ctx.prompts = len(pre_activations)
    # of hidden and residual the backward needs nothing else
    ctx.added = [None if t is None or not t.requires_grad else t.dtype for t in (hidden, residual)]
    ctx.needed = [any(ctx.added), *(t.requires_grad for t in (weight, *pre_activations, *scales))]
    ctx.save_for_backward(output[0], weight, prompted, *pre_activations, *scales)


def _backward(ctx: Any, grad_total: Tensor, grad_normed: Tensor) -> tuple[Any, ...]:
    total, weight, prompted, *rest = ctx.saved_tensors
    pre_activations, scales = rest[: ctx.prompts], rest[ctx.prompts :]
    grads = iter(
        add_rms_norm_backward_op(
            grad_total, grad_normed, total, weight, pre_activations, scales, prompted, ctx.eps, ctx.needed, ctx.backend
        )
    )
    of_total: Any
    of_total, of_weight, *others = (next(grads) if need else None for need in ctx.needed)
    of_hidden, of_residual = (None if dtype is None else of_total.to(dtype) for dtype in ctx.added)
    return of_hidden, of_residual, of_weight, others[: ctx.prompts], others[ctx.prompts :], None, None, None, None


add_rms_norm_op.register_autograd(_backward, setup_context=_setup_context)
