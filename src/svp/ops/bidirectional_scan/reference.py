"""The definition, from the two ops that have their own."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from svp.ops.causal_conv1d import causal_conv1d
from svp.ops.linear import product
from svp.ops.selective_scan import selective_scan


class Direction(NamedTuple):
    """Weights of one direction.

    Args:
        conv_weight: Taps of the causal convolution, (d_inner, d_conv).
        conv_bias: Bias of the convolution, (d_inner,).
        x_proj: Projection to step size, B and C, (dt_rank + 2 d_state, d_inner); one column more if it has a bias, which is
            the last one then.
        dt_proj: Projection from the low-rank step size to the channels, (d_inner, dt_rank).
        dt_bias: Added to the step size before the softplus, (d_inner,).
        A: Decay, negative, (d_inner, d_state).
        D: Skip weight, (d_inner,).
        initial_state: State in front of the direction's first token, (batch or 1, d_inner, d_state); zero if None.
    """

    conv_weight: Tensor
    conv_bias: Tensor
    x_proj: Tensor
    dt_proj: Tensor
    dt_bias: Tensor
    A: Tensor
    D: Tensor
    initial_state: Tensor | None = None


class Inputs(NamedTuple):
    """The tensors of ``svp.ops.bidirectional_scan``.

    `weights` are the first seven fields of both directions, one after the other, and behind them the initial states of both,
    if there are any.
    """

    xz: Tensor
    weights: list[Tensor]


def bidirectional_scan_composed(xz: Tensor, forward: Direction, backward: Direction, backend: str) -> Tensor:
    """``svp.ops.bidirectional_scan`` out of convolution and scan, each on `backend`."""
    x, z = xz.chunk(2, dim=-1)
    y = _one_direction(x, z, forward, False, backend)
    return (y + _one_direction(x, z, backward, True, backend)) / 2


def _one_direction(x: Tensor, z: Tensor, weights: Direction, reverse: bool, backend: str) -> Tensor:
    x = causal_conv1d(x, weights.conv_weight, weights.conv_bias, "silu", reverse, backend)
    dt_rank, d_state = weights.dt_proj.shape[1], weights.A.shape[1]
    x_proj, bias = split_bias(weights.x_proj, x.shape[-1])
    p_dt, B, C = torch.split(F.linear(x.to(x_proj.dtype), x_proj, bias), [dt_rank, d_state, d_state], dim=-1)
    with _no_autocast(x.device.type):  # the step size is as small as its bias, of up to -7, makes it
        dt = F.linear(p_dt.to(weights.dt_proj.dtype), weights.dt_proj)
    D, dt_bias, initial_state = weights.D, weights.dt_bias, weights.initial_state
    return selective_scan(x, dt, weights.A, B, C, D, z, dt_bias, initial_state, reverse, backend=backend)


def flat_weights(forward: Direction, backward: Direction) -> list[Tensor]:
    """Both directions as ``Inputs.weights``; zeros where only the other direction has an initial state."""
    weights = [weight for side in (forward, backward) for weight in side[:7] if weight is not None]
    states = [side.initial_state for side in (forward, backward)]
    if all(state is None for state in states):
        return weights
    sides = zip(states, (forward, backward), strict=True)
    return weights + [side.A.new_zeros(1, *side.A.shape) if state is None else state for state, side in sides]


def split_bias(x_proj: Tensor, d_inner: int) -> tuple[Tensor, Tensor | None]:
    """Weight and bias in a ``Direction``'s `x_proj`."""
    return (x_proj, None) if x_proj.shape[1] == d_inner else (x_proj[:, :d_inner], x_proj[:, d_inner])


def project(x: Tensor, x_proj: Tensor) -> Tensor:
    """What a ``Direction``'s `x_proj` makes of (..., d_inner)."""
    weight, bias = split_bias(x_proj, x.shape[-1])
    return product(x, weight.T) if bias is None else product(x, weight.T) + bias


def with_bias(grad: Tensor, grad_p: Tensor, x_proj: Tensor) -> Tensor:
    """Gradient of `x_proj` from that of its weight and of what it gives, (tokens, dt_rank + 2 d_state)."""
    return grad if x_proj.shape[1] == grad.shape[1] else torch.cat([grad, grad_p.sum(0).unsqueeze(1)], dim=1)


def _no_autocast(device: str) -> AbstractContextManager[object]:
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
