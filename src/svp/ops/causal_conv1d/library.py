"""The convolution as a PyTorch library op, so that ``torch.compile`` and ``torch.export`` see one node and not a kernel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from svp.ops.backend import compiled


@torch.library.custom_op("svp::causal_conv1d", mutates_args=())
def causal_conv1d_op(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None, reverse: bool, backend: str
) -> Tensor:
    """y"""
    return _FORWARD[backend](x, weight, bias, activation, reverse)


@torch.library.custom_op("svp::causal_conv1d_backward", mutates_args=())
def causal_conv1d_backward_op(
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    reverse: bool,
    needed: list[bool],
    backend: str,
) -> list[Tensor]:
    """Gradients of those of x, weight and bias that `needed` marks."""
    return _BACKWARD[backend](grad_y, x, weight, bias, activation, reverse, needed)


_FORWARD = compiled("causal_conv1d", "forward")
_BACKWARD = compiled("causal_conv1d", "backward")


@causal_conv1d_op.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None, reverse: bool, backend: str) -> Tensor:
    return x.new_empty(x.shape)


@causal_conv1d_backward_op.register_fake
def _(
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    reverse: bool,
    needed: list[bool],
    backend: str,
) -> list[Tensor]:
    return [t.new_empty(t.shape) for t, need in zip((x, weight, bias), needed, strict=True) if t is not None and need]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *arguments, ctx.activation, ctx.reverse, ctx.backend = inputs
    ctx.save_for_backward(*arguments)


def _backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
    arguments = ctx.saved_tensors
    needed = [t is not None and need for t, need in zip(arguments, ctx.needs_input_grad[:3], strict=True)]
    grads = iter(causal_conv1d_backward_op(grad_y, *arguments, ctx.activation, ctx.reverse, needed, ctx.backend))
    return (*(next(grads) if need else None for need in needed), None, None, None)


causal_conv1d_op.register_autograd(_backward, setup_context=_setup_context)
