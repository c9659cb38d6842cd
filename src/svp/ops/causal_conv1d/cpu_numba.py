"""The depthwise causal convolution on a CPU in float32, by Numba: filter and SiLU in one pass.

Work items are tiles of tokens of one image; inside a token, blocks of sixteen channels follow each other in memory. The
backward computes the convolution again: with a the value before the activation and ga its gradient,

    ga[i] = gy[i] * SiLU'(a[i])          gx[i] = sum_k w[k] ga[i + d_conv - 1 - k]
    gw[k] = sum_i ga[i] x[i - (d_conv - 1) + k]          gb = sum_i ga[i]

where i counts along the direction of the filter: token = first + direction * i. Sums over tokens are kept per tile and the
host adds them up.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from svp.ops.causal_conv1d.reference import Inputs
from svp.ops.compiling import inlined, kernel
from svp.ops.rows import LANES, flat, pad_channels, rows
from svp.ops.simd import empty, fma, load, sigmoid, splat, store

_TILE = 64  # tokens
_ZERO, _ONE = np.float32(0), np.float32(1)


@inlined
def token_or_zero(x, image, t, length, channel):
    """x at token `t`; zero outside of the sequence."""
    if 0 <= t < length:
        return load(x.data, image * x.image + t * x.token + channel)
    return splat(_ZERO)


@inlined
def filtered(x, image, t, length, direction, channel, weight, bias, channels, d_conv):
    """The filter at token `t`, before the activation; `direction` is +1 or -1."""
    total = load(bias, channel)
    for k in range(d_conv):
        tap, seen = load(weight, k * channels + channel), t - direction * (d_conv - 1 - k)
        if 0 <= seen < length:
            total = fma(tap, load(x.data, image * x.image + seen * x.token + channel), total)
        else:  # the zeros take part: a weight of inf times zero is NaN, as in the reference
            total = fma(tap, splat(_ZERO), total)
    return total


@inlined
def through_silu(grad, a):
    """grad * SiLU'(a)"""
    slope = sigmoid(a)
    return grad * (slope * fma(a, splat(_ONE) - slope, splat(_ONE)))


@kernel
def _forward(item, tiles, x, weight, bias, silu, first, direction, y):
    length, channels = y.shape[1], y.shape[2]
    d_conv = weight.size // channels
    image, start = item // tiles, item % tiles * _TILE
    for i in range(start, min(start + _TILE, length)):
        t = first + direction * i
        out = (image * length + t) * channels
        for channel in range(0, channels, LANES):
            value = filtered(x, image, t, length, direction, channel, weight, bias, channels, d_conv)
            if silu:
                value = value * sigmoid(value)
            store(y, out + channel, value)


@kernel
def _backward(
    item, tiles, grad_y, x, weight, bias, silu, first, direction, need_x, need_weight, grad_x, grad_weight, grad_bias
):
    length, channels = grad_x.shape[1], bias.size
    d_conv = weight.size // channels
    image, start = item // tiles, item % tiles * _TILE
    stop = min(start + _TILE, length)
    # the gradient before the activation, of the tile and the d_conv - 1 steps behind it that its tokens still reach
    grad_a = empty((_TILE + d_conv - 1) * LANES)
    for channel in range(0, channels, LANES):
        total = splat(_ZERO)
        for i in range(start, stop + d_conv - 1):
            t = first + direction * i
            grad = token_or_zero(grad_y, image, t, length, channel)
            if silu and i < length:
                grad = through_silu(grad, filtered(x, image, t, length, direction, channel, weight, bias, channels, d_conv))
            store(grad_a, (i - start) * LANES, grad)
            if i < stop:
                total = total + grad
        if need_x:
            for i in range(start, stop):
                value = splat(_ZERO)
                for k in range(d_conv):
                    at = (i - start + d_conv - 1 - k) * LANES
                    value = fma(load(weight, k * channels + channel), load(grad_a, at), value)
                store(grad_x, (image * length + first + direction * i) * channels + channel, value)
        if need_weight:
            store(grad_bias, item * channels + channel, total)
            for k in range(d_conv):
                total = splat(_ZERO)
                for i in range(start, stop):
                    t = first + direction * (i - (d_conv - 1) + k)
                    value = token_or_zero(x, image, t, length, channel)
                    total = fma(load(grad_a, (i - start) * LANES), value, total)
                store(grad_weight, (item * d_conv + k) * channels + channel, total)


def forward(inputs: Inputs, activation: str | None, reverse: bool) -> Tensor:
    """y of ``svp.ops.causal_conv1d``, in float32."""
    batch, length, d_inner = inputs.x.shape
    y = torch.empty(batch, length, d_inner + -d_inner % LANES)
    tiles = math.ceil(length / _TILE)
    _forward(batch * tiles, tiles, *_kernel_inputs(inputs, activation, reverse), y.numpy())
    return y[..., :d_inner].to(inputs.x.dtype).contiguous()


def backward(grads: list[Tensor], inputs: Inputs, needed: list[bool], activation: str | None, reverse: bool) -> list[Tensor]:
    """Gradients of those of x, weight and bias that `needed` marks."""
    x, weight, bias = inputs
    batch, length, d_inner = x.shape
    d_conv = weight.shape[1]
    channels = d_inner + -d_inner % LANES
    tiles = math.ceil(length / _TILE)
    need_x, need_weight = needed[0], needed[1] or needed[2]
    grad_x = torch.empty(batch if need_x else 0, length, channels)
    partial = batch * tiles if need_weight else 0
    grad_weight, grad_bias = torch.empty(partial, d_conv, channels), torch.empty(partial, channels)
    _backward(
        batch * tiles,
        tiles,
        rows(pad_channels(grads[0])),
        *_kernel_inputs(inputs, activation, reverse),
        need_x,
        need_weight,
        *(t.numpy() for t in (grad_x, grad_weight, grad_bias)),
    )
    results: list[Tensor] = []
    if needed[0]:
        results.append(grad_x[..., :d_inner].to(x.dtype).contiguous())
    if needed[1]:
        results.append(grad_weight.sum(0)[:, :d_inner].T.to(weight.dtype).contiguous())
    if needed[2] and bias is not None:
        results.append(grad_bias.sum(0)[:d_inner].to(bias.dtype))
    return results


def _kernel_inputs(inputs: Inputs, activation: str | None, reverse: bool) -> tuple[Any, ...]:
    """The arguments that both kernels read, in their order; weight is turned to (d_conv, channels)."""
    x, weight, bias = inputs
    return (
        rows(pad_channels(x)),
        flat(pad_channels(weight.T)),
        flat(pad_channels(weight.new_zeros(weight.shape[0]) if bias is None else bias)),
        activation == "silu",
        x.shape[1] - 1 if reverse else 0,
        -1 if reverse else 1,
    )
