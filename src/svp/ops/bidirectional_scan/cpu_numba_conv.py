"""The convolutions of both directions and the SiLU behind them, one pass over the input, and its way back."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from svp.ops.causal_conv1d.cpu_numba import through_silu
from svp.ops.compiling import inlined, kernel
from svp.ops.rows import LANES
from svp.ops.simd import empty, fma, load, sigmoid, splat, store

CONV_CHUNK = 32  # tokens of an item
_GROUP = 192  # channels at a time: what is kept of a chunk stays in the L2 cache
_QUAD = 4  # tokens that share the loads of taps
_ZERO = np.float32(0)


class Weights(NamedTuple):
    """What the kernels read of one direction; channels are adjacent."""

    conv: npt.NDArray[np.float32]  # (d_conv, d_inner)
    conv_bias: npt.NDArray[np.float32]  # (d_inner,)
    dt_proj: npt.NDArray[np.float32]  # (blocks, dt_rank, 16)
    dt_bias: npt.NDArray[np.float32]  # (d_inner,)
    decay_rate: npt.NDArray[np.float32]  # (blocks, d_state, 16), A * log2(e)
    D: npt.NDArray[np.float32]  # (d_inner,)
    initial_state: npt.NDArray[np.float32]  # (images, blocks, d_state, 16), of one image for all or of none for zero


@inlined
def _fill_tile(image, start, stop, length, group, end, x, tile):
    """Tokens from `start` on, zeros outside of the sequence; tile is (tokens, _GROUP) of channels from `group` on."""
    for t in range(start, stop):
        for channel in range(group, end, LANES):
            at = (t - start) * _GROUP + channel - group
            if 0 <= t < length:
                store(tile, at, load(x.data, image * x.image + t * x.token + channel))
            else:  # the zeros take part: a weight of inf times zero is NaN, as in the reference
                store(tile, at, splat(_ZERO))


@inlined
def _filtered(tile, at, step, weight, bias, channel, d_conv):
    """A filter at four tokens, before the SiLU; the first tap of the first token is at `at`, each next one `step` further."""
    a = load(bias, channel)
    b, c, d = a, a, a
    for k in range(d_conv):
        tap, seen = load(weight, k * bias.shape[0] + channel), at + k * step
        a = fma(tap, load(tile, seen), a)
        b = fma(tap, load(tile, seen + _GROUP), b)
        c = fma(tap, load(tile, seen + 2 * _GROUP), c)
        d = fma(tap, load(tile, seen + 3 * _GROUP), d)
    return a, b, c, d


@inlined
def _store_silu(out, at, inside, a):
    if inside:
        store(out, at, a * sigmoid(a))


@kernel
def conv(item, chunks, d_conv, x, forward, backward, x_forward, x_backward):
    """SiLU of both filters, of one chunk of tokens of an image."""
    length, channels = x_forward.shape[1], x_forward.shape[2]
    image, chunk = item // chunks, item % chunks
    first, last = chunk * length // chunks, (chunk + 1) * length // chunks
    margin = d_conv - 1
    tile = empty((last - first + 2 * margin + _QUAD) * _GROUP)
    sides = ((forward, x_forward), (backward, x_backward))
    for group in range(0, channels, _GROUP):
        end = min(group + _GROUP, channels)
        _fill_tile(image, first - margin, last + margin, length, group, end, x, tile)
        for t in range(first, last, _QUAD):
            for channel in range(group, end, LANES):
                at = (image * length + t) * channels + channel
                for side in range(2):  # the first tap of the backward filter is `margin` tokens behind
                    weights, out = sides[side]
                    seen = (t - first + 2 * margin * side) * _GROUP + channel - group
                    a, b, c, d = _filtered(
                        tile, seen, (1 - 2 * side) * _GROUP, weights.conv, weights.conv_bias, channel, d_conv
                    )
                    store(out, at, a * sigmoid(a))
                    _store_silu(out, at + channels, t + 1 < last, b)
                    _store_silu(out, at + 2 * channels, t + 2 < last, c)
                    _store_silu(out, at + 3 * channels, t + 3 < last, d)


@inlined
def _fill_gradients(image, start, stop, length, group, end, grad, through_p, of_a):
    """As ``_fill_tile``, with the sums of `grad` and `through_p`."""
    channels = grad.shape[2]
    for t in range(start, stop):
        for channel in range(group, end, LANES):
            at, row = (t - start) * _GROUP + channel - group, (image * length + t) * channels + channel
            if 0 <= t < length:
                store(of_a, at, load(grad, row) + load(through_p, row))
            else:
                store(of_a, at, splat(_ZERO))


@inlined
def _multiply_by_slope(of_a, at, a):
    store(of_a, at, through_silu(load(of_a, at), a))


@inlined
def _store_inside(out, at, inside, value):
    if inside:
        store(out, at, value)


@kernel
def conv_backward(
    item, chunks, d_conv, x, forward, backward, grad_forward, grad_backward, through_forward, through_backward, need_weights,
    grad_x, grad_taps, grad_taps_b,
):  # fmt: skip
    """Gradient of x from those of both convolved inputs, of one chunk of tokens; the first half of every row of `grad_x`.

    The gradient of a convolved input is the sum of `grad_...` and `through_...`. Those of the taps, and of the bias behind
    them, are kept per chunk: (items, d_conv + 1, d_inner).
    """
    length, channels, width = grad_forward.shape[1], grad_forward.shape[2], grad_x.shape[2]
    image, chunk = item // chunks, item % chunks
    first, last = chunk * length // chunks, (chunk + 1) * length // chunks
    margin, count = d_conv - 1, last - first
    tile = empty((count + 3 * margin + _QUAD) * _GROUP)
    # of the forward filter from token `first` on, of the backward one from `margin` tokens before
    of_a = (empty((count + margin + _QUAD) * _GROUP), empty((count + margin + _QUAD) * _GROUP))
    sides = ((forward, grad_forward, through_forward), (backward, grad_backward, through_backward))
    for group in range(0, channels, _GROUP):
        end = min(group + _GROUP, channels)
        _fill_tile(image, first - margin, last + margin, length, group, end, x, tile)
        for side in range(2):
            _, grad, through_p = sides[side]
            start = first - margin * side
            _fill_gradients(image, start, start + count + margin, length, group, end, grad, through_p, of_a[side])
        for i in range(0, count + margin, _QUAD):
            for channel in range(group, end, LANES):
                at = i * _GROUP + channel - group
                for side in range(2):
                    weights = sides[side][0]
                    a, b, c, d = _filtered(
                        tile, at + margin * side * _GROUP, (1 - 2 * side) * _GROUP, weights.conv, weights.conv_bias, channel,
                        d_conv,
                    )  # fmt: skip
                    _multiply_by_slope(of_a[side], at, a)
                    _multiply_by_slope(of_a[side], at + _GROUP, b)
                    _multiply_by_slope(of_a[side], at + 2 * _GROUP, c)
                    _multiply_by_slope(of_a[side], at + 3 * _GROUP, d)
        for i in range(0, count, _QUAD):
            for channel in range(group, end, LANES):
                # token t was seen by tap k of the forward filter at t + margin - k, of the backward one at t - margin + k
                at, a, b, c, d = i * _GROUP + channel - group, splat(_ZERO), splat(_ZERO), splat(_ZERO), splat(_ZERO)
                for k in range(d_conv):
                    for side in range(2):
                        tap = load(sides[side][0].conv, k * channels + channel)
                        seen = at + (k if side else margin - k) * _GROUP
                        a = fma(tap, load(of_a[side], seen), a)
                        b = fma(tap, load(of_a[side], seen + _GROUP), b)
                        c = fma(tap, load(of_a[side], seen + 2 * _GROUP), c)
                        d = fma(tap, load(of_a[side], seen + 3 * _GROUP), d)
                row = (image * length + first + i) * width + channel
                store(grad_x, row, a)
                _store_inside(grad_x, row + width, i + 1 < count, b)
                _store_inside(grad_x, row + 2 * width, i + 2 < count, c)
                _store_inside(grad_x, row + 3 * width, i + 3 < count, d)
        if need_weights:
            for channel in range(group, end, LANES):
                for k in range(d_conv + 1):
                    total, total_b = splat(_ZERO), splat(_ZERO)
                    for i in range(count):
                        at = i * _GROUP + channel - group
                        of_t, of_t_b = load(of_a[0], at), load(of_a[1], at + margin * _GROUP)
                        if k == d_conv:
                            total, total_b = total + of_t, total_b + of_t_b
                        else:
                            total = fma(of_t, load(tile, at + k * _GROUP), total)
                            total_b = fma(of_t_b, load(tile, at + (2 * margin - k) * _GROUP), total_b)
                    at = (item * (d_conv + 1) + k) * channels + channel
                    store(grad_taps, at, total)
                    store(grad_taps_b, at, total_b)
