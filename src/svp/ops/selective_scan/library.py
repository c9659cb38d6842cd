"""The scan as a PyTorch library op, so that ``torch.compile`` and ``torch.export`` see one node and not a loop."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from svp.ops.backend import compiled
from svp.ops.selective_scan import any_device
from svp.ops.selective_scan.reference import state_dtype

_NUM_TENSORS = 8  # x, dt, A, B, C, D, z, dt_bias


@torch.library.custom_op("svp::selective_scan", mutates_args=())
def selective_scan_op(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    reverse: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """y and last state."""
    return _FORWARD[backend](x, dt, A, B, C, D, z, dt_bias, reverse)


@torch.library.custom_op("svp::selective_scan_backward", mutates_args=())
def selective_scan_backward_op(
    grad_y: Tensor,
    grad_state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    needed: list[bool],
    reverse: bool,
    backend: str,
) -> list[Tensor]:
    """Gradients of those of the eight tensor arguments that `needed` marks, in their order."""
    return _BACKWARD[backend](grad_y, grad_state, (x, dt, A, B, C, D, z, dt_bias), needed, reverse)


_FORWARD = {"any_device": any_device.forward} | compiled("selective_scan", "forward")
_BACKWARD = {"any_device": any_device.backward} | compiled("selective_scan", "backward")


@selective_scan_op.register_fake
def _(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    reverse: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    state = x.new_empty(x.shape[0], x.shape[2], A.shape[1], dtype=state_dtype(x, dt, A, B, C, D, z, dt_bias))
    return x.new_empty(x.shape), state


@selective_scan_backward_op.register_fake
def _(
    grad_y: Tensor,
    grad_state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    needed: list[bool],
    reverse: bool,
    backend: str,
) -> list[Tensor]:
    arguments = (x, dt, A, B, C, D, z, dt_bias)
    return [t.new_empty(t.shape) for t, need in zip(arguments, needed, strict=True) if t is not None and need]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *arguments, ctx.reverse, ctx.backend = inputs
    ctx.state_like = output[1].shape, output[1].dtype
    ctx.save_for_backward(*arguments)


def _backward(ctx: Any, grad_y: Tensor | None, grad_state: Tensor | None) -> tuple[Tensor | None, ...]:
    arguments = ctx.saved_tensors
    needed = [t is not None and need for t, need in zip(arguments, ctx.needs_input_grad[:_NUM_TENSORS], strict=True)]
    shape, dtype = ctx.state_like
    x = arguments[0]
    grad_y = torch.zeros_like(x) if grad_y is None else grad_y
    grad_state = x.new_zeros(shape, dtype=dtype) if grad_state is None else grad_state
    grads = iter(selective_scan_backward_op(grad_y, grad_state, *arguments, needed, ctx.reverse, ctx.backend))
    return (*(next(grads) if need else None for need in needed), None, None)


selective_scan_op.register_autograd(_backward, setup_context=_setup_context)
