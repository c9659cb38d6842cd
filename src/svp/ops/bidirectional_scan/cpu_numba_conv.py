"""The convolutions of both directions and the SiLU behind them, one pass over the input, and its way back."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from svp.ops.causal_conv1d.cpu_numba import filtered, through_silu
from svp.ops.compiling import inlined, kernel
from svp.ops.rows import LANES
from svp.ops.simd import clear, empty, fma, load, sigmoid, splat, store

CONV_CHUNK = 32  # tokens of an item
_ZERO, _ONE = np.float32(0), np.float32(1)


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
def _both_filters(image, t, length, d_conv, channel, x, forward, backward):
    """Both filters at token `t`, before the SiLU."""
    channels = forward.conv_bias.shape[0]
    return (
        filtered(x, image, t, length, 1, channel, forward.conv, forward.conv_bias, channels, d_conv),
        filtered(x, image, t, length, -1, channel, backward.conv, backward.conv_bias, channels, d_conv),
    )


@kernel
def conv(item, chunks, d_conv, x, forward, backward, x_forward, x_backward):
    """SiLU of both filters, of one chunk of tokens of an image."""
    length, channels = x_forward.shape[1], x_forward.shape[2]
    image, chunk = item // chunks, item % chunks
    for t in range(chunk * length // chunks, (chunk + 1) * length // chunks):
        for channel in range(0, channels, LANES):
            a, a_b = _both_filters(image, t, length, d_conv, channel, x, forward, backward)
            at = (image * length + t) * channels + channel
            store(x_forward, at, a * sigmoid(a))
            store(x_backward, at, a_b * sigmoid(a_b))


@kernel
def conv_backward(
    item, chunks, d_conv, x, forward, backward, grad_forward, grad_backward, need_weights, grad_x, grad_taps, grad_taps_b
):
    """Gradient of x from those of both convolved inputs, of one chunk of tokens; the first half of every row of `grad_x`.

    Those of the taps, and of the bias behind them, are kept per chunk: (items, d_conv + 1, d_inner).
    """
    length, channels, width = grad_forward.shape[1], grad_forward.shape[2], grad_x.shape[2]
    image, chunk = item // chunks, item % chunks
    first, last = chunk * length // chunks, (chunk + 1) * length // chunks
    margin = d_conv - 1
    # gradients in front of the SiLU, 0 beyond the sequence: of_a begins at token `first`, of_a_b `margin` tokens before
    of_a, of_a_b = empty((last - first + margin) * channels), empty((last - first + margin) * channels)
    clear(of_a)
    clear(of_a_b)
    for t in range(max(first - margin, 0), min(last + margin, length)):
        for channel in range(0, channels, LANES):
            a, a_b = _both_filters(image, t, length, d_conv, channel, x, forward, backward)
            at = (image * length + t) * channels + channel
            if t >= first:
                store(of_a, (t - first) * channels + channel, through_silu(load(grad_forward, at), a))
            if t < last:
                store(of_a_b, (t - first + margin) * channels + channel, through_silu(load(grad_backward, at), a_b))
    for t in range(first, last):
        for channel in range(0, channels, LANES):
            # token t was seen by tap k of the forward filter at t + margin - k, of the backward one at t - margin + k
            total = splat(_ZERO)
            for k in range(d_conv):
                tap = k * channels + channel
                total = fma(load(forward.conv, tap), load(of_a, (t - first + margin - k) * channels + channel), total)
                total = fma(load(backward.conv, tap), load(of_a_b, (t - first + k) * channels + channel), total)
            store(grad_x, (image * length + t) * width + channel, total)
    if need_weights:
        for channel in range(0, channels, LANES):
            for k in range(d_conv + 1):
                total, total_b = splat(_ZERO), splat(_ZERO)
                for t in range(first, last):
                    of_t = load(of_a, (t - first) * channels + channel)
                    of_t_b = load(of_a_b, (t - first + margin) * channels + channel)
                    before, behind = t - margin + k, t + margin - k
                    if k == d_conv:
                        total, total_b = total + of_t, total_b + of_t_b
                    else:
                        if before >= 0:
                            total = fma(of_t, load(x.data, image * x.image + before * x.token + channel), total)
                        if behind < length:
                            total_b = fma(of_t_b, load(x.data, image * x.image + behind * x.token + channel), total_b)
                at = (item * (d_conv + 1) + k) * channels + channel
                store(grad_taps, at, total)
                store(grad_taps_b, at, total_b)
