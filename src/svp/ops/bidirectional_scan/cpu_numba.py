"""The inner part of a Vim mixer on a CPU in float32, by Numba: both directions in one pass over the input.

Nothing but the input is kept for the backward pass, which computes the convolutions, the projections and the states again
and, where the weights are frozen as in SVP, leaves out their gradients. With p = [p_dt, B, C] of one direction, from its
convolved input x,

    raw = dt_proj p_dt + dt_bias         step = softplus(raw)         y = scan(x, step, A, B, C) + D x
    out = (y_forward + y_backward) / 2 * SiLU(z)

    g = grad_out / 2 * SiLU(z)                               gradient of either y
    grad_z = grad_out / 2 * SiLU'(z) * (y_forward + y_backward)
    grad_p = [grad_raw dt_proj, grad_B, grad_C]              grad_x = (of scan and skip) + grad_p x_proj

Matrix products over all channels (x_proj, and dt_proj in the backward pass) are PyTorch's; everything between them is done
here, one block of sixteen channels at a time, see ``selective_scan.cpu_numba`` for the recurrence and its gradients.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from numba import njit, prange
from torch import Tensor

from svp.ops.rows import LANES, Rows, flat, rows
from svp.ops.selective_scan.cpu_numba import chunk_states, chunk_states_kept, chunk_sweep, groups_per_image, to_blocks
from svp.ops.simd import INLINED, LOG2_E, OPTIONS, broadcast, empty, fma, load, sigmoid, softplus, splat, store
from svp.ops.threads import run_kernel

_CHUNK = 64  # tokens of the forward pass
_KEPT_VECTORS = 4096  # states of a chunk of the backward pass
_ZERO, _HALF, _ONE = np.float32(0), np.float32(0.5), np.float32(1)


class Weights(NamedTuple):
    """What the kernels read of one direction; channels are adjacent."""

    conv: npt.NDArray[np.float32]  # (d_conv, d_inner)
    conv_bias: npt.NDArray[np.float32]  # (d_inner,)
    dt_proj: npt.NDArray[np.float32]  # (dt_rank, d_inner)
    dt_bias: npt.NDArray[np.float32]  # (d_inner,)
    decay_rate: npt.NDArray[np.float32]  # (blocks, d_state, 16), A * log2(e)
    D: npt.NDArray[np.float32]  # (d_inner,)


# convolution ------------------------------------------------------------------------------------------------------------


@njit(**OPTIONS)
def _pad(image, length, channel, margin, x, padded):
    """Copy one block of channels between `margin` zero tokens on either side."""
    for i in range(length):
        store(padded, (margin + i) * LANES, load(x.data, image * x.image + i * x.token + channel))


@njit(**dict(OPTIONS, forceinline=True))
def _filtered(padded, at, step, d_conv, channels, channel, weight, bias):
    """The filter over `d_conv` tokens of `padded` from `at` on, `step` (+1 or -1) apart."""
    total = bias
    for k in range(d_conv):
        total = fma(load(weight, k * channels + channel), load(padded, (at + step * k) * LANES), total)
    return total


@njit(**INLINED)
def _conv_item(item, groups, d_conv, x, forward, backward, x_forward, x_backward):
    """SiLU of both filters, of one image and one group of channel blocks."""
    length, channels = x_forward.shape[1], x_forward.shape[2]
    image, group, blocks = item // groups, item % groups, channels // LANES
    margin = d_conv - 1
    padded = empty((length + 2 * margin) * LANES)
    padded[:] = _ZERO
    for block in range(group * blocks // groups, (group + 1) * blocks // groups):
        channel = block * LANES
        bias, bias_b = load(forward.conv_bias, channel), load(backward.conv_bias, channel)
        _pad(image, length, channel, margin, x, padded)
        for t in range(length):
            out = (image * length + t) * channels + channel
            a = _filtered(padded, t, 1, d_conv, channels, channel, forward.conv, bias)
            store(x_forward, out, a * sigmoid(a))
            a = _filtered(padded, t + 2 * margin, -1, d_conv, channels, channel, backward.conv, bias_b)
            store(x_backward, out, a * sigmoid(a))


@njit(**dict(OPTIONS, forceinline=True))
def _through_silu(grad, a):
    slope = sigmoid(a)
    return grad * (slope * fma(a, splat(_ONE) - slope, splat(_ONE)))


@njit(**INLINED)
def _conv_backward_item(
    item, groups, d_conv, x, forward, backward, grad_forward, grad_backward, need_weights, grad_x, grad_taps, grad_taps_b
):
    """Gradient of x from those of both convolved inputs; written to the first half of every row of `grad_x`.

    Those of the taps, and of the bias behind them, are kept per image: (batch, d_conv + 1, d_inner).
    """
    length, channels, width = grad_forward.shape[1], grad_forward.shape[2], grad_x.shape[2]
    image, group, blocks = item // groups, item % groups, channels // LANES
    margin = d_conv - 1
    padded, of_a, of_a_b = (
        empty((length + 2 * margin) * LANES),
        empty((length + 2 * margin) * LANES),
        empty((length + 2 * margin) * LANES),
    )
    padded[:] = _ZERO
    of_a[:] = _ZERO
    of_a_b[:] = _ZERO
    for block in range(group * blocks // groups, (group + 1) * blocks // groups):
        channel = block * LANES
        bias, bias_b = load(forward.conv_bias, channel), load(backward.conv_bias, channel)
        _pad(image, length, channel, margin, x, padded)
        for t in range(length):
            at = (image * length + t) * channels + channel
            a = _filtered(padded, t, 1, d_conv, channels, channel, forward.conv, bias)
            store(of_a, (margin + t) * LANES, _through_silu(load(grad_forward, at), a))
            a = _filtered(padded, t + 2 * margin, -1, d_conv, channels, channel, backward.conv, bias_b)
            store(of_a_b, (margin + t) * LANES, _through_silu(load(grad_backward, at), a))
        for t in range(length):
            # token t was seen by tap k of the forward filter at t + margin - k, of the backward one at t - margin + k
            total = _filtered(of_a, t + 2 * margin, -1, d_conv, channels, channel, forward.conv, splat(_ZERO))
            total = _filtered(of_a_b, t, 1, d_conv, channels, channel, backward.conv, total)
            store(grad_x, (image * length + t) * width + channel, total)
        if need_weights:
            for k in range(d_conv + 1):
                total, total_b = splat(_ZERO), splat(_ZERO)
                for t in range(length):
                    of_t, of_t_b = load(of_a, (margin + t) * LANES), load(of_a_b, (margin + t) * LANES)
                    if k < d_conv:
                        total = fma(of_t, load(padded, (t + k) * LANES), total)
                        total_b = fma(of_t_b, load(padded, (t + 2 * margin - k) * LANES), total_b)
                    else:
                        total, total_b = total + of_t, total_b + of_t_b
                at = (image * (d_conv + 1) + k) * channels + channel
                store(grad_taps, at, total)
                store(grad_taps_b, at, total_b)


@njit(**OPTIONS)
def _conv_serial(items, groups, d_conv, x, forward, backward, x_forward, x_backward):
    for item in range(items):
        _conv_item(item, groups, d_conv, x, forward, backward, x_forward, x_backward)


@njit(parallel=True, **OPTIONS)
def _conv_parallel(items, groups, d_conv, x, forward, backward, x_forward, x_backward):
    for item in prange(items):
        _conv_item(item, groups, d_conv, x, forward, backward, x_forward, x_backward)


@njit(**OPTIONS)
def _conv_backward_serial(
    items, groups, d_conv, x, forward, backward, grad_forward, grad_backward, need_weights, grad_x, grad_taps, grad_taps_b
):
    for item in range(items):
        _conv_backward_item(
            item, groups, d_conv, x, forward, backward, grad_forward, grad_backward, need_weights,
            grad_x, grad_taps, grad_taps_b,
        )  # fmt: skip


@njit(parallel=True, **OPTIONS)
def _conv_backward_parallel(
    items, groups, d_conv, x, forward, backward, grad_forward, grad_backward, need_weights, grad_x, grad_taps, grad_taps_b
):
    for item in prange(items):
        _conv_backward_item(
            item, groups, d_conv, x, forward, backward, grad_forward, grad_backward, need_weights,
            grad_x, grad_taps, grad_taps_b,
        )  # fmt: skip


# scan -------------------------------------------------------------------------------------------------------------------


@njit(**OPTIONS)
def _chunk_steps(count, image, token, direction, channel, dt_rank, x, p, weights, step, step_x):
    """step[i] and step[i] * x[i] of `count` tokens from `token` on."""
    channels, bias = x.shape[2], load(weights.dt_bias, channel)
    length = x.shape[1]
    for i in range(count):
        t = token + direction * i
        raw = _raw_step(p, image * p.image + t * p.token, dt_rank, weights.dt_proj, channels, channel, bias)
        value = softplus(raw)
        store(step, i * LANES, value)
        store(step_x, i * LANES, value * load(x, (image * length + t) * channels + channel))


@njit(**dict(OPTIONS, forceinline=True))
def _raw_step(p, row, dt_rank, dt_proj, channels, channel, bias):
    even, odd = bias, splat(_ZERO)  # two chains: one would wait for every addition
    for r in range(0, dt_rank - 1, 2):
        even = fma(load(dt_proj, r * channels + channel), broadcast(p.data, row + r), even)
        odd = fma(load(dt_proj, (r + 1) * channels + channel), broadcast(p.data, row + r + 1), odd)
    if dt_rank % 2:
        even = fma(load(dt_proj, (dt_rank - 1) * channels + channel), broadcast(p.data, row + dt_rank - 1), even)
    return even + odd


@njit(**dict(OPTIONS, forceinline=True))
def _B_and_C(p, dt_rank, d_state):
    """Those columns of p = [p_dt, B, C]."""
    return Rows(p.data[dt_rank:], p.image, p.token), Rows(p.data[dt_rank + d_state :], p.image, p.token)


@njit(**INLINED)
def _scan_item(item, groups, dt_rank, x_forward, x_backward, p, p_b, forward, backward, z, out):
    """One image, one group of channel blocks."""
    length, channels = out.shape[1], out.shape[2]
    d_state, blocks = forward.decay_rate.shape[1], channels // LANES
    image, group = item // groups, item % groups
    B, C = _B_and_C(p, dt_rank, d_state)
    B_b, C_b = _B_and_C(p_b, dt_rank, d_state)
    h = empty(d_state * LANES)
    step, step_x, sums = empty(_CHUNK * LANES), empty(_CHUNK * LANES), empty(_CHUNK * LANES)
    y = empty(length * LANES)
    half = splat(_HALF)
    for block in range(group * blocks // groups, (group + 1) * blocks // groups):
        channel = block * LANES
        h[:] = _ZERO
        skip = load(forward.D, channel)
        for start in range(0, length, _CHUNK):
            count = min(_CHUNK, length - start)
            _chunk_steps(count, image, start, 1, channel, dt_rank, x_forward, p, forward, step, step_x)
            chunk_states(count, image, start, 1, channel, d_state, forward.decay_rate, B, C, step, step_x, h, sums)
            for i in range(count):
                t = start + i
                value = load(x_forward, (image * length + t) * channels + channel)
                store(y, t * LANES, fma(skip, value, load(sums, i * LANES)))
        h[:] = _ZERO
        skip = load(backward.D, channel)
        for start in range(0, length, _CHUNK):
            count = min(_CHUNK, length - start)
            last = length - 1 - start
            _chunk_steps(count, image, last, -1, channel, dt_rank, x_backward, p_b, backward, step, step_x)
            chunk_states(count, image, last, -1, channel, d_state, backward.decay_rate, B_b, C_b, step, step_x, h, sums)
            for i in range(count):
                t = last - i
                at = (image * length + t) * channels + channel
                value = load(y, t * LANES) + fma(skip, load(x_backward, at), load(sums, i * LANES))
                gate = load(z.data, image * z.image + t * z.token + channel)
                store(out, at, value * (half * gate * sigmoid(gate)))


@njit(**OPTIONS)
def _scan_serial(items, groups, dt_rank, x_forward, x_backward, p, p_b, forward, backward, z, out):
    for item in range(items):
        _scan_item(item, groups, dt_rank, x_forward, x_backward, p, p_b, forward, backward, z, out)


@njit(parallel=True, **OPTIONS)
def _scan_parallel(items, groups, dt_rank, x_forward, x_backward, p, p_b, forward, backward, z, out):
    for item in prange(items):
        _scan_item(item, groups, dt_rank, x_forward, x_backward, p, p_b, forward, backward, z, out)


@njit(**OPTIONS)
def _direction_backward(
    item, image, channel, chunk, direction, dt_rank, x, p, B, C, weights, grad_y, y, need_weights,
    step, step_x, slope, sums, grad_s, grad_step, grad_step_x, starts, states, decays, grad_h, of_A, products_B, products_C,
    grad_x, grad_raw, grad_B, grad_C, grad_A, grad_D,
):  # fmt: skip
    """One direction of one block of channels: adds its output to `y`, writes grad_x and grad_raw, adds to grad_B and grad_C.

    Gradients of A and D are kept per image.

    `grad_y` and `y`, (length, 16), are in the order of the tokens; everything per chunk is in that of the recurrence.
    """
    length, channels = x.shape[1], x.shape[2]
    d_state = weights.decay_rate.shape[1]
    first = 0 if direction == 1 else length - 1
    chunks = (length + chunk - 1) // chunk
    skip, bias = load(weights.D, channel), load(weights.dt_bias, channel)
    starts[0] = _ZERO
    for c in range(chunks - 1):
        token = first + direction * c * chunk
        _chunk_steps(chunk, image, token, direction, channel, dt_rank, x, p, weights, step, step_x)
        for n in range(d_state):  # an assignment of arrays would compile the words of an error about their shapes
            store(starts, ((c + 1) * d_state + n) * LANES, load(starts, (c * d_state + n) * LANES))
        chunk_states(
            chunk, image, token, direction, channel, d_state, weights.decay_rate, B, C, step, step_x, starts[c + 1], sums
        )
    grad_h[:] = _ZERO
    of_A[:] = _ZERO
    total_D = splat(_ZERO)
    for c in range(chunks - 1, -1, -1):
        count = min(chunk, length - c * chunk)
        token = first + direction * c * chunk
        for i in range(count):
            t = token + direction * i
            raw = _raw_step(p, image * p.image + t * p.token, dt_rank, weights.dt_proj, channels, channel, bias)
            value = softplus(raw)
            store(slope, i * LANES, sigmoid(raw))
            store(step, i * LANES, value)
            store(step_x, i * LANES, value * load(x, (image * length + t) * channels + channel))
            store(grad_s, i * LANES, load(grad_y, t * LANES))
        chunk_states_kept(
            count, image, token, direction, channel, d_state, weights.decay_rate, B, C, step, step_x, starts[c],
            states, decays, sums,
        )  # fmt: skip
        chunk_sweep(
            count, image, token, direction, channel, item, weights.decay_rate, B, C, step, step_x, states, decays, grad_s,
            need_weights, True, 0, grad_h, grad_step, grad_step_x, of_A, grad_B, grad_C, products_B, products_C,
        )  # fmt: skip
        for i in range(count):
            t = token + direction * i
            at = (image * length + t) * channels + channel
            x_t, grad, of_step_x = load(x, at), load(grad_s, i * LANES), load(grad_step_x, i * LANES)
            store(y, t * LANES, load(y, t * LANES) + fma(skip, x_t, load(sums, i * LANES)))
            store(grad_x, at, fma(of_step_x, load(step, i * LANES), skip * grad))
            store(grad_raw, at, fma(of_step_x, x_t, load(grad_step, i * LANES)) * load(slope, i * LANES))
            total_D = fma(grad, x_t, total_D)
    if need_weights:
        at = image * channels + channel
        store(grad_D, at, total_D)
        for n in range(d_state):
            store(grad_A, at * d_state + n * LANES, load(of_A, n * LANES))


@njit(**INLINED)
def _backward_item(
    item, groups, chunk, dt_rank, need_weights, grad_out, x_forward, x_backward, p, p_b, forward, backward, z,
    grad_x, grad_x_b, grad_raw, grad_raw_b, grad_BC, grad_BC_b, grad_AD, grad_AD_b, grad_z,
):  # fmt: skip
    """One image, one group of channel blocks. grad_z goes to the second half of every row of `grad_z`."""
    length, channels, width = x_forward.shape[1], x_forward.shape[2], grad_z.shape[2]
    d_state, blocks = forward.decay_rate.shape[1], channels // LANES
    image, group = item // groups, item % groups
    B, C = _B_and_C(p, dt_rank, d_state)
    B_b, C_b = _B_and_C(p_b, dt_rank, d_state)
    chunks = (length + chunk - 1) // chunk
    step, step_x, slope, sums = empty(chunk * LANES), empty(chunk * LANES), empty(chunk * LANES), empty(chunk * LANES)
    grad_s, grad_step, grad_step_x = empty(chunk * LANES), empty(chunk * LANES), empty(chunk * LANES)
    starts = empty(chunks * d_state * LANES).reshape(chunks, d_state * LANES)
    states, decays = empty((chunk + 1) * d_state * LANES), empty(chunk * d_state * LANES)
    grad_h, of_A = empty(d_state * LANES), empty(d_state * LANES)
    padded_states = grad_BC[0].shape[2]
    products_B, products_C = empty(padded_states * LANES), empty(padded_states * LANES)
    products_B[:] = _ZERO
    products_C[:] = _ZERO
    y, grad_y = empty(length * LANES), empty(length * LANES)
    half = splat(_HALF)
    for block in range(group * blocks // groups, (group + 1) * blocks // groups):
        channel = block * LANES
        y[:] = _ZERO
        for t in range(length):
            gate = load(z.data, image * z.image + t * z.token + channel)
            grad = load(grad_out.data, image * grad_out.image + t * grad_out.token + channel)
            store(grad_y, t * LANES, half * grad * (gate * sigmoid(gate)))
        _direction_backward(
            item, image, channel, chunk, 1, dt_rank, x_forward, p, B, C, forward, grad_y, y, need_weights,
            step, step_x, slope, sums, grad_s, grad_step, grad_step_x, starts, states, decays, grad_h, of_A,
            products_B, products_C,
            grad_x, grad_raw, grad_BC[0], grad_BC[1], grad_AD[0], grad_AD[1],
        )  # fmt: skip
        _direction_backward(
            item, image, channel, chunk, -1, dt_rank, x_backward, p_b, B_b, C_b, backward, grad_y, y, need_weights,
            step, step_x, slope, sums, grad_s, grad_step, grad_step_x, starts, states, decays, grad_h, of_A,
            products_B, products_C,
            grad_x_b, grad_raw_b, grad_BC_b[0], grad_BC_b[1], grad_AD_b[0], grad_AD_b[1],
        )  # fmt: skip
        for t in range(length):
            gate = load(z.data, image * z.image + t * z.token + channel)
            grad = load(grad_out.data, image * grad_out.image + t * grad_out.token + channel)
            store(
                grad_z,
                (image * length + t) * width + channels + channel,
                _through_silu(half * grad, gate) * load(y, t * LANES),
            )


@njit(**OPTIONS)
def _backward_serial(
    items, groups, chunk, dt_rank, need_weights, grad_out, x_forward, x_backward, p, p_b, forward, backward, z,
    grad_x, grad_x_b, grad_raw, grad_raw_b, grad_BC, grad_BC_b, grad_AD, grad_AD_b, grad_z,
):  # fmt: skip
    for item in range(items):
        _backward_item(
            item, groups, chunk, dt_rank, need_weights, grad_out, x_forward, x_backward, p, p_b, forward, backward, z,
            grad_x, grad_x_b, grad_raw, grad_raw_b, grad_BC, grad_BC_b, grad_AD, grad_AD_b, grad_z,
        )  # fmt: skip


@njit(parallel=True, **OPTIONS)
def _backward_parallel(
    items, groups, chunk, dt_rank, need_weights, grad_out, x_forward, x_backward, p, p_b, forward, backward, z,
    grad_x, grad_x_b, grad_raw, grad_raw_b, grad_BC, grad_BC_b, grad_AD, grad_AD_b, grad_z,
):  # fmt: skip
    for item in prange(items):
        _backward_item(
            item, groups, chunk, dt_rank, need_weights, grad_out, x_forward, x_backward, p, p_b, forward, backward, z,
            grad_x, grad_x_b, grad_raw, grad_raw_b, grad_BC, grad_BC_b, grad_AD, grad_AD_b, grad_z,
        )  # fmt: skip


# from tensors to kernels ------------------------------------------------------------------------------------------------


def forward(xz: Tensor, weights: list[Tensor]) -> Tensor:
    """``svp.ops.bidirectional_scan`` in float32; `weights` are the fields of both directions, one after the other."""
    call = _Call(xz, weights)
    out = torch.empty(call.inner)
    run_kernel(_scan_parallel, _scan_serial, call.items, call.groups, call.dt_rank, *call.scan_inputs, out.numpy())
    return out.to(xz.dtype)


def backward(grad_out: Tensor, xz: Tensor, weights: list[Tensor], needed: list[bool]) -> list[Tensor]:
    """Gradients of those of `xz` and the weights that `needed` marks; one weight costs as much as all."""
    call = _Call(xz, weights)
    need_weights = any(needed[1:])
    batch, length, d_inner = call.inner
    d_state = weights[5].shape[1]
    padded_states = math.ceil(d_state / LANES) * LANES
    kept = batch if need_weights else 0  # gradients of weights per image
    grad_xz = torch.empty(batch, length, 2 * d_inner)
    grad_x, grad_raw = ([torch.empty(call.inner) for _ in range(2)] for _ in range(2))
    grad_BC = [[torch.zeros(call.items, length, padded_states) for _ in range(2)] for _ in range(2)]
    grad_AD = [[torch.empty(kept, d_inner // LANES, d_state, LANES), torch.empty(kept, d_inner)] for _ in range(2)]
    grad_taps = [torch.empty(kept, call.d_conv + 1, d_inner) for _ in range(2)]
    run_kernel(
        _backward_parallel,
        _backward_serial,
        call.items,
        call.groups,
        min(length, max(1, _KEPT_VECTORS // d_state)),
        call.dt_rank,
        need_weights,
        rows(grad_out),
        *call.scan_inputs,
        *(t.numpy() for t in (*grad_x, *grad_raw)),
        *(tuple(t.numpy() for t in pair) for pair in (*grad_BC, *grad_AD)),
        grad_xz.numpy(),
    )
    grad_p = []
    for side in range(2):
        x_proj, dt_proj = (weights[7 * side + field].float() for field in (2, 3))
        of_BC = [t.view(batch, call.groups, length, -1)[..., :d_state].sum(1) for t in grad_BC[side]]
        grad_p.append(torch.cat([grad_raw[side] @ dt_proj, *of_BC], dim=-1).view(batch * length, -1))
        grad_x[side].view(-1, d_inner).addmm_(grad_p[side], x_proj)
    run_kernel(
        _conv_backward_parallel,
        _conv_backward_serial,
        call.conv_items,
        call.conv_groups,
        call.d_conv,
        call.x,
        *call.kernel_weights,
        *(t.numpy() for t in grad_x),
        need_weights,
        *(t.numpy() for t in (grad_xz, *grad_taps)),
    )
    grads = [grad_xz.to(xz.dtype)]
    for side in range(2 if need_weights else 0):
        of_taps, of_raw = grad_taps[side].sum(0), grad_raw[side].view(-1, d_inner)
        of_A, of_D = (t.sum(0) for t in grad_AD[side])
        of_weights = (
            of_taps[:-1].T,
            of_taps[-1].clone(),  # outputs must not share memory
            grad_p[side].T @ call.convolved[side].view(-1, d_inner),
            of_raw.T @ call.projected[side].view(batch * length, -1)[:, : call.dt_rank],
            of_raw.sum(0),
            of_A.transpose(1, 2).reshape(d_inner, d_state),
            of_D,
        )
        own = weights[7 * side : 7 * side + 7]
        grads += [grad.to(weight.dtype).contiguous() for grad, weight in zip(of_weights, own, strict=True)]
    return [grad for grad, need in zip(grads, needed, strict=False) if need]


class _Call:
    """What forward and backward share: the convolved inputs of both directions and their projections."""

    def __init__(self, xz: Tensor, weights: list[Tensor]) -> None:
        xz = xz.detach().float()
        batch, length, width = xz.shape
        d_inner = width // 2
        self.inner = (batch, length, d_inner)
        self.d_conv, self.dt_rank = weights[0].shape[1], weights[3].shape[1]
        self.kernel_weights = (_kernel_weights(*weights[:7]), _kernel_weights(*weights[7:]))
        self.x: Rows = rows(xz[..., :d_inner])
        blocks = d_inner // LANES
        self.groups = groups_per_image(batch, blocks)
        self.items = batch * self.groups
        self.conv_groups = math.ceil(blocks / 4)
        self.conv_items = batch * self.conv_groups
        self.convolved = [torch.empty(self.inner) for _ in range(2)]
        run_kernel(
            _conv_parallel,
            _conv_serial,
            self.conv_items,
            self.conv_groups,
            self.d_conv,
            self.x,
            *self.kernel_weights,
            *(t.numpy() for t in self.convolved),
        )
        self.projected = [x @ weights[7 * side + 2].float().T for side, x in enumerate(self.convolved)]
        self.scan_inputs: tuple[Any, ...] = (
            *(x.numpy() for x in self.convolved),
            *(rows(p) for p in self.projected),
            *self.kernel_weights,
            rows(xz[..., d_inner:]),
        )


def _kernel_weights(
    conv_weight: Tensor, conv_bias: Tensor, x_proj: Tensor, dt_proj: Tensor, dt_bias: Tensor, A: Tensor, D: Tensor
) -> Weights:
    decay_rate = to_blocks(A.float()[None] * float(LOG2_E))[0]
    return Weights(flat(conv_weight.T), flat(conv_bias), flat(dt_proj.T), flat(dt_bias), decay_rate.numpy(), flat(D))
