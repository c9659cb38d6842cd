"""Prompts, residual and RMSNorm on a CPU in float32, by Numba: a token is read once, and written once into either result.

Work items are runs of tokens. Nothing but the sum r is kept for the backward pass, which computes its root mean square again.
With s = 1 / sqrt(mean(r^2) + eps), gn and gr the gradients of the norm and of r, d channels and a a pre-activation,

    g  = gr + gn w s - r s^3 / d sum(gn w r)        gradient of the sum, and so of hidden and residual
    ga = g scale SiLU'(a)                           zero where a token is not prompted, like the next
    gscale = sum over tokens of g SiLU(a)           gw = sum over tokens of gn r s

Sums over tokens are kept per item and the host adds them up. Where everything that is as wide as `hidden` is bfloat16, the
kernels read and write that.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from svp.ops.add_rms_norm.reference import Inputs
from svp.ops.compiling import inlined, kernel
from svp.ops.rows import LANES, flat, numpy_view, pad_channels, rows
from svp.ops.simd import empty, fma, load, sigmoid, splat, store

_TOKENS = 64  # of an item
_ZERO, _ONE = np.float32(0), np.float32(1)


@inlined
def _sum_of_lanes(vector, space):
    store(space, 0, vector)
    total = _ZERO
    for i in range(LANES):
        total += space[i]
    return total


# kernels ----------------------------------------------------------------------------------------------------------------


@kernel
def _forward(
    item, tokens, width, eps, hidden, residual, has_residual, count, first, second, scales, prompted, weight, total, normed
):
    """`tokens` (batch, length); `width` without the padding of channels; `count` prompts, `scales` (count, channels)."""
    channels = weight.size
    batch, length = tokens
    lanes = empty(LANES)
    for token in range(item * _TOKENS, min((item + 1) * _TOKENS, batch * length)):
        image, t = token // length, token % length
        out = token * channels
        at_h, at_r = image * hidden.image + t * hidden.token, image * residual.image + t * residual.token
        prompts = count if count > 0 and prompted[t] else 0
        # without a prompt hidden is passed in its place, and not looked at
        at_1, at_2 = image * first.image + t * first.token, image * second.image + t * second.token
        squares = splat(_ZERO)
        for channel in range(0, channels, LANES):
            value = load(hidden.data, at_h + channel)
            if prompts > 0:
                a = load(first.data, at_1 + channel)
                value = fma(load(scales, channel), a * sigmoid(a), value)
            if prompts > 1:
                a = load(second.data, at_2 + channel)
                value = fma(load(scales, channels + channel), a * sigmoid(a), value)
            if has_residual:
                value = value + load(residual.data, at_r + channel)
            store(total, out + channel, value)
            squares = fma(value, value, squares)
        inverse = splat(_ONE / np.sqrt(_sum_of_lanes(squares, lanes) / np.float32(width) + eps))
        for channel in range(0, channels, LANES):
            store(normed, out + channel, load(total, out + channel) * inverse * load(weight, channel))


@kernel
def _backward(
    item, tokens, width, eps, grad_total, grad_normed, total, count, first, second, scales, prompted, weight,
    need_total, need_weight, need_activations, need_scales, grad, grad_first, grad_second, grad_weight, grad_scales,
):  # fmt: skip
    """Sums over the tokens of the item go to its row of grad_weight, (items, channels), and grad_scales, twice as wide."""
    channels = weight.size
    batch, length = tokens
    lanes = empty(LANES)
    of_weight, of_first = item * channels, 2 * item * channels
    of_second = of_first + channels
    one, zero = splat(_ONE), splat(_ZERO)
    if need_weight:
        for channel in range(0, channels, LANES):
            store(grad_weight, of_weight + channel, zero)
    if need_scales:
        for channel in range(0, 2 * channels, LANES):
            store(grad_scales, of_first + channel, zero)
    for token in range(item * _TOKENS, min((item + 1) * _TOKENS, batch * length)):
        image, t = token // length, token % length
        out = token * channels
        at_t = image * grad_total.image + t * grad_total.token
        at_r, at_n = image * total.image + t * total.token, image * grad_normed.image + t * grad_normed.token
        prompts = count if count > 0 and prompted[t] else 0
        at_1, at_2 = image * first.image + t * first.token, image * second.image + t * second.token
        squares, products = zero, zero
        for channel in range(0, channels, LANES):
            r = load(total.data, at_r + channel)
            squares = fma(r, r, squares)
            products = fma(load(grad_normed.data, at_n + channel) * load(weight, channel), r, products)
        inverse = _ONE / np.sqrt(_sum_of_lanes(squares, lanes) / np.float32(width) + eps)
        shared = splat(-_sum_of_lanes(products, lanes) * inverse * inverse * inverse / np.float32(width))
        scaled = splat(inverse)
        for channel in range(0, channels, LANES):
            r = load(total.data, at_r + channel)
            n = load(grad_normed.data, at_n + channel) * scaled
            g = fma(shared, r, fma(n, load(weight, channel), load(grad_total.data, at_t + channel)))
            if need_total:
                store(grad, out + channel, g)
            if need_weight:
                store(grad_weight, of_weight + channel, fma(n, r, load(grad_weight, of_weight + channel)))
            if prompts > 0:
                a = load(first.data, at_1 + channel)
                s = sigmoid(a)
                silu = a * s
                if need_scales:
                    store(grad_scales, of_first + channel, fma(g, silu, load(grad_scales, of_first + channel)))
                if need_activations:
                    store(grad_first, out + channel, g * load(scales, channel) * fma(silu, one - s, s))
            if prompts > 1:
                a = load(second.data, at_2 + channel)
                s = sigmoid(a)
                silu = a * s
                if need_scales:
                    store(grad_scales, of_second + channel, fma(g, silu, load(grad_scales, of_second + channel)))
                if need_activations:
                    store(grad_second, out + channel, g * load(scales, channels + channel) * fma(silu, one - s, s))
        if need_activations and prompts == 0:  # of `count`
            for channel in range(0, channels, LANES):
                store(grad_first, out + channel, zero)
                if count > 1:
                    store(grad_second, out + channel, zero)


# from tensors to kernels ------------------------------------------------------------------------------------------------


def forward(inputs: Inputs, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """r and n of ``svp.ops.add_rms_norm``."""
    hidden, residual, weight, pre_activations, scales, prompted = inputs
    batch, length, width = hidden.shape
    stream_dtype = _stream_dtype(dtype, hidden, *pre_activations)
    total, normed = _new_rows(hidden, torch.float32), _new_rows(hidden, stream_dtype)
    stream = rows(pad_channels(hidden), stream_dtype)
    items = math.ceil(batch * length / _TOKENS)
    _forward(
        items,
        (batch, length),
        width,
        np.float32(eps),
        stream,
        rows(pad_channels(total if residual is None else residual)),
        residual is not None,
        *_prompts(pre_activations, scales, prompted, stream, stream_dtype),
        flat(pad_channels(weight)),
        numpy_view(total),
        numpy_view(normed),
    )
    return _trim(total, width), _trim(normed, width).to(dtype)


def backward(grads: list[Tensor], inputs: Inputs, needed: list[bool], eps: float, dtype: torch.dtype) -> list[Tensor]:
    """Gradients of those that `needed` marks: the sum, weight, pre_activations, scales."""
    grad_total, grad_normed = grads
    total, _, weight, pre_activations, scales, prompted = inputs
    needed = [needed[0], *needed[2:-1]]
    batch, length, width = total.shape
    count = len(pre_activations)
    need_total, need_weight = needed[:2]
    need_activations, need_scales = any(needed[2 : 2 + count]), any(needed[2 + count :])
    stream_dtype = _stream_dtype(grad_normed.dtype, *pre_activations)
    of_normed = rows(pad_channels(grad_normed), stream_dtype)
    items = math.ceil(batch * length / _TOKENS)
    channels = width + -width % LANES
    nothing = total.new_empty(0)
    grad = _new_rows(total, torch.float32) if need_total else nothing
    grad_activations = [
        _new_rows(total, stream_dtype) if need_activations and i < count else nothing.to(stream_dtype) for i in range(2)
    ]
    grad_weight = torch.empty(items if need_weight else 0, channels)
    grad_scales = torch.empty(items if need_scales else 0, 2, channels)
    _backward(
        items,
        (batch, length),
        width,
        np.float32(eps),
        rows(pad_channels(grad_total)),
        of_normed,
        rows(pad_channels(total)),
        *_prompts(pre_activations, scales, prompted, of_normed, stream_dtype),
        flat(pad_channels(weight)),
        need_total,
        need_weight,
        need_activations,
        need_scales,
        *(numpy_view(t.view(-1)) for t in (grad, *grad_activations, grad_weight, grad_scales)),
    )
    results: list[Tensor] = [_trim(grad, width)] if need_total else []
    if need_weight:
        results.append(grad_weight.sum(0)[:width].to(weight.dtype))
    pairs = zip(grad_activations, pre_activations, needed[2:], strict=False)
    results += [_trim(of_a, width).to(a.dtype) for of_a, a, need in pairs if need]
    pairs = zip(grad_scales.sum(0), scales, needed[2 + count :], strict=False)
    results += [of_scale[:width].to(scale.dtype, copy=True) for of_scale, scale, need in pairs if need]
    return results


def _stream_dtype(dtype: torch.dtype, *tensors: Tensor) -> torch.dtype:
    """In which the kernels read and write what is as wide as `hidden`."""
    half = all(d == torch.bfloat16 for d in (dtype, *(t.dtype for t in tensors)))
    return torch.bfloat16 if half else torch.float32


def _new_rows(like: Tensor, dtype: torch.dtype) -> Tensor:
    batch, length, width = like.shape
    return torch.empty(batch, length, width + -width % LANES, dtype=dtype)


def _prompts(
    pre_activations: list[Tensor], scales: list[Tensor], prompted: Tensor | None, none: Any, dtype: torch.dtype
) -> Any:
    """The kernels' arguments from `count` to `prompted`; `none` stands where a prompt is missing."""
    given = [rows(pad_channels(a), dtype) for a in pre_activations]
    packed = pad_channels(torch.stack([s.detach().float() for s in scales])) if scales else torch.empty(0)
    mask = np.empty(0, np.bool_) if prompted is None else prompted.contiguous().numpy()
    return len(given), *[*given, none, none][:2], packed.view(-1).numpy(), mask


def _trim(t: Tensor, width: int) -> Tensor:
    return t[..., :width].contiguous()
