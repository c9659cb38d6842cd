"""The inner part of a Vim mixer on a CPU, by Numba: both directions in one pass over the input, float32 inside.

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

A block is one cache line of every token, so a walk along the tokens would wait for memory at each of them. The kernels
therefore read and write the tensors a few neighbouring blocks at a time, token by token, and keep those blocks, a tile, in
the L2 cache as (block, length, 16). Tensors are float32 or bfloat16, tiles are float32. The convolutions are in
``cpu_numba_conv``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from svp.ops.bidirectional_scan.cpu_numba_conv import (
    CONV_CHUNK,
    Weights,
    conv,
    conv_backward,
)
from svp.ops.bidirectional_scan.kept import keep_for_backward, kept_for_backward
from svp.ops.bidirectional_scan.reference import Inputs, project, split_bias, with_bias
from svp.ops.causal_conv1d.cpu_numba import through_silu
from svp.ops.compiling import function, inlined, kernel, part
from svp.ops.linear import has_bf16_products, outside_autocast, product
from svp.ops.rows import LANES, Rows, flat, numpy_view, rows, values
from svp.ops.selective_scan.cpu_numba import (
    KEPT_TOKENS,
    STATES,
    add_groups,
    chunk_states,
    chunk_steps,
    first_state,
    from_blocks,
    groups_per_image,
    pad_states,
    states_kept,
    sum_pairs,
    sweep,
    to_blocks,
)
from svp.ops.simd import HAS_AVX512, LOG2_E, broadcast, clear, empty, fma, load, sigmoid, splat, store
from svp.ops.threads import kernel_threads

_CHUNK = 64  # tokens of the forward pass
_TILE_VECTORS = 1024  # of a tile, 64 kB: the backward pass keeps six of them in the L2 cache
_FEW_IMAGES, _FEW_VALUES = 8, 2**19  # images of a part at least, or with so many values of one direction
_ZERO, _HALF, _LN_2 = np.float32(0), np.float32(0.5), np.float32(math.log(2))


# scan -------------------------------------------------------------------------------------------------------------------


@part
def _fill_tile(image, first, last, x, tile):
    """tile (block, length, 16) of the blocks from `first` to `last` - 1 of x (batch, length, channels)"""
    length, channels = x.shape[1], x.shape[2]
    for t in range(length):
        for block in range(first, last):
            at = (image * length + t) * channels + block * LANES
            store(tile, ((block - first) * length + t) * LANES, load(x, at))


@function
def _raw_steps(count, image, token, direction, block, p, weights, raw):
    """raw[i], the step in front of the softplus, of `count` tokens from `token` on; four at a time share a load of dt_proj."""
    dt_rank = weights.dt_proj.shape[1]
    bias, rates = load(weights.dt_bias, block * LANES), block * dt_rank * LANES
    first, stride = image * p.image + token * p.token, direction * p.token
    tiled = count - count % 4
    for i in range(0, tiled, 4):
        row = first + i * stride
        a, b, c, d = bias, bias, bias, bias
        for r in range(dt_rank):
            rate = load(weights.dt_proj, rates + r * LANES)
            a = fma(rate, broadcast(p.data, row + r), a)
            b = fma(rate, broadcast(p.data, row + stride + r), b)
            c = fma(rate, broadcast(p.data, row + 2 * stride + r), c)
            d = fma(rate, broadcast(p.data, row + 3 * stride + r), d)
        store(raw, i * LANES, a)
        store(raw, (i + 1) * LANES, b)
        store(raw, (i + 2) * LANES, c)
        store(raw, (i + 3) * LANES, d)
    for i in range(tiled, count):
        a = bias
        for r in range(dt_rank):
            a = fma(load(weights.dt_proj, rates + r * LANES), broadcast(p.data, first + i * stride + r), a)
        store(raw, i * LANES, a)


@inlined
def _B_and_C(p, weights):
    """Those columns of p = [p_dt, B, C]."""
    dt_rank, d_state = weights.dt_proj.shape[1], weights.decay_rate.shape[1]
    return Rows(p.data[dt_rank:], p.image, p.token), Rows(p.data[dt_rank + d_state :], p.image, p.token)


@part
def _direction(image, block, length, direction, x, at, p, weights, y, h, step, step_x, sums):
    """Adds the output of one direction of one block of channels to the tile `y`."""
    d_state, skip = weights.decay_rate.shape[1], load(weights.D, block * LANES)
    B, C = _B_and_C(p, weights)
    first_state(image, block, weights.initial_state, h)
    for start in range(0, length, _CHUNK):
        count = min(_CHUNK, length - start)
        token = start if direction == 1 else length - 1 - start
        _raw_steps(count, image, token, direction, block, p, weights, step)
        chunk_steps(count, 0, token, direction, at, Rows(x, 0, LANES), step, step_x)
        chunk_states(count, image, token, direction, block * LANES, d_state, weights.decay_rate, B, C, step, step_x, h, sums)
        for i in range(count):
            t = at + (token + direction * i) * LANES
            store(y, t, load(y, t) + fma(skip, load(x, t), load(sums, i * LANES)))


@kernel
def _scan(item, groups, tile, x_forward, x_backward, p, p_b, forward, backward, z, out):
    """One image, one group of channel blocks, at most `tile` of them at a time."""
    length, channels = out.shape[1], out.shape[2]
    d_state, blocks = forward.decay_rate.shape[1], channels // LANES
    image, group = item // groups, item % groups
    h = empty(d_state * LANES)
    step, step_x, sums = empty(_CHUNK * LANES), empty(_CHUNK * LANES), empty(_CHUNK * LANES)
    size = tile * length * LANES
    y, tiles = empty(size), (empty(size), empty(size))
    sides = ((x_forward, p, forward), (x_backward, p_b, backward))
    half = splat(_HALF)
    end = (group + 1) * blocks // groups
    for first in range(group * blocks // groups, end, tile):
        last = min(first + tile, end)
        for side in range(2):
            _fill_tile(image, first, last, sides[side][0], tiles[side])
        clear(y)
        for block in range(first, last):
            at = (block - first) * length * LANES
            for side in range(2):  # a loop: written twice, it would compile twice
                _, p_side, weights = sides[side]
                _direction(image, block, length, 1 - 2 * side, tiles[side], at, p_side, weights, y, h, step, step_x, sums)
        for t in range(length):
            for block in range(first, last):
                gate = load(z.data, image * z.image + t * z.token + block * LANES)
                value = load(y, ((block - first) * length + t) * LANES)
                store(out, (image * length + t) * channels + block * LANES, value * (half * gate * sigmoid(gate)))


@function
def _of_dt_proj(count, image, token, at, p, dt_rank, grad_raw, of_dt_proj, first):
    """Adds the gradient of dt_proj from `count` tokens from `token` on, those of a rank at `first` and behind."""
    for r in range(0, dt_rank, 2):
        other = min(r + 1, dt_rank - 1)  # a last rank without a second one is computed twice
        a, b = load(of_dt_proj, first + r * LANES), load(of_dt_proj, first + other * LANES)
        c, d = splat(_ZERO), splat(_ZERO)
        row = image * p.image + token * p.token
        for t in range(0, count - count % 2, 2):
            even, odd = load(grad_raw, at + (token + t) * LANES), load(grad_raw, at + (token + t + 1) * LANES)
            a = fma(even, broadcast(p.data, row + r), a)
            b = fma(even, broadcast(p.data, row + other), b)
            c = fma(odd, broadcast(p.data, row + p.token + r), c)
            d = fma(odd, broadcast(p.data, row + p.token + other), d)
            row += 2 * p.token
        if count % 2:
            even = load(grad_raw, at + (token + count - 1) * LANES)
            a, b = fma(even, broadcast(p.data, row + r), a), fma(even, broadcast(p.data, row + other), b)
        store(of_dt_proj, first + r * LANES, a + c)
        store(of_dt_proj, first + other * LANES, b + d)


@part
def _direction_backward(
    item, image, block, length, chunk, direction, x, at, p, weights, grad_y, y, need_weights,
    step, step_x, slope, sums, grad_s, grad_step, grad_step_x, starts, kept, grad_h, of_weights,
    grad_raw, grad_BC, grads,
):  # fmt: skip
    """One direction of one block of channels: adds its output to `y`, writes grad_raw, adds to grad_B and grad_C.

    The gradient of x takes its place in the tile `x`. `grads` are those of weights and of the initial state, kept per image;
    the weights are A, dt_proj, dt_bias and D. Tiles are in the order of the tokens; everything per chunk is in that of the
    recurrence.
    """
    dt_rank = weights.dt_proj.shape[1]
    d_state, channel = weights.decay_rate.shape[1], block * LANES
    B, C = _B_and_C(p, weights)
    first = 0 if direction == 1 else length - 1
    chunks = (length + chunk - 1) // chunk
    skip = load(weights.D, channel)
    first_state(image, block, weights.initial_state, starts[0])
    for c in range(chunks - 1):
        token = first + direction * c * chunk
        _raw_steps(chunk, image, token, direction, block, p, weights, step)
        chunk_steps(chunk, 0, token, direction, at, Rows(x, 0, LANES), step, step_x)
        for n in range(d_state):  # an assignment of arrays would compile the words of an error about their shapes
            store(starts, ((c + 1) * d_state + n) * LANES, load(starts, (c * d_state + n) * LANES))
        chunk_states(
            chunk, image, token, direction, channel, d_state, weights.decay_rate, B, C, step, step_x, starts[c + 1], sums
        )
    clear(grad_h)
    clear(of_weights)
    total_bias, total_D = splat(_ZERO), splat(_ZERO)
    for c in range(chunks - 1, -1, -1):
        count = min(chunk, length - c * chunk)
        token = first + direction * c * chunk
        _raw_steps(count, image, token, direction, block, p, weights, step)
        for i in range(count):
            store(slope, i * LANES, sigmoid(load(step, i * LANES)))
            store(grad_s, i * LANES, load(grad_y, at + (token + direction * i) * LANES))
        chunk_steps(count, 0, token, direction, at, Rows(x, 0, LANES), step, step_x)
        clear(sums)
        clear(grad_step)
        clear(grad_step_x)
        for n in range(0, d_state, STATES):
            states_kept(
                count, image, token, direction, channel, n, d_state, weights.decay_rate, B, C, step, step_x, starts[c],
                kept, sums,
            )  # fmt: skip
            sweep(
                count, image, token, direction, channel, item, n, weights.decay_rate, B, C, step, step_x, kept, grad_s,
                need_weights, True, 0, grad_h, grad_step, grad_step_x, of_weights, grad_BC,
            )  # fmt: skip
        for i in range(count):
            t = at + (token + direction * i) * LANES
            x_t, grad, of_step_x = load(x, t), load(grad_s, i * LANES), load(grad_step_x, i * LANES)
            store(y, t, load(y, t) + fma(skip, x_t, load(sums, i * LANES)))
            store(x, t, fma(of_step_x, load(step, i * LANES), skip * grad))
            of_step = fma(of_step_x, x_t, load(grad_step, i * LANES) * splat(_LN_2))  # decay_rate is A * log2(e)
            of_raw = of_step * load(slope, i * LANES)
            store(grad_raw, t, of_raw)
            total_bias, total_D = total_bias + of_raw, fma(grad, x_t, total_D)
        if need_weights:
            _of_dt_proj(
                count, image, min(token, token + direction * (count - 1)), at, p, dt_rank, grad_raw, of_weights,
                d_state * LANES,
            )  # fmt: skip
    if need_weights:
        store(of_weights, (d_state + dt_rank) * LANES, total_bias)
        store(of_weights, (d_state + dt_rank + 1) * LANES, total_D)
        size = of_weights.size
        for n in range(0, size, LANES):
            store(grads[0], (image * weights.decay_rate.shape[0] + block) * size + n, load(of_weights, n))
    if grads[1].shape[0]:
        for n in range(0, d_state * LANES, LANES):  # grad_h has gone through the first token
            store(grads[1], (image * weights.D.shape[0] + channel) * d_state + n, load(grad_h, n))


@kernel
def _backward(
    item, groups, tile, chunk, need_weights, grad_out, x_forward, x_backward, p, p_b, forward, backward, z,
    grad_x, grad_x_b, grad_raw, grad_raw_b, grad_BC, grad_BC_b, grads, grads_b, grad_z,
):  # fmt: skip
    """One image, one group of channel blocks. grad_z goes to the second half of every row of `grad_z`."""
    length, channels, width = x_forward.shape[1], x_forward.shape[2], grad_z.shape[2]
    d_state, blocks = forward.decay_rate.shape[1], channels // LANES
    image, group = item // groups, item % groups
    chunks = (length + chunk - 1) // chunk
    step, step_x, slope, sums = empty(chunk * LANES), empty(chunk * LANES), empty(chunk * LANES), empty(chunk * LANES)
    grad_s, grad_step, grad_step_x = empty(chunk * LANES), empty(chunk * LANES), empty(chunk * LANES)
    starts = empty(chunks * d_state * LANES).reshape(chunks, d_state * LANES)
    kept = empty((chunk + 1) * 2 * STATES * LANES)
    # dt_rank of the forward direction is that of both
    grad_h, of_weights = empty(d_state * LANES), empty((d_state + forward.dt_proj.shape[1] + 2) * LANES)
    size = tile * length * LANES
    y, grad_y = empty(size), empty(size)
    tiles, of_raw = (empty(size), empty(size)), (empty(size), empty(size))
    sides = ((x_forward, p, forward), (x_backward, p_b, backward))
    of_sides = ((grad_x, grad_raw, grad_BC, grads), (grad_x_b, grad_raw_b, grad_BC_b, grads_b))
    half = splat(_HALF)
    end = (group + 1) * blocks // groups
    for first in range(group * blocks // groups, end, tile):
        last = min(first + tile, end)
        for side in range(2):
            _fill_tile(image, first, last, sides[side][0], tiles[side])
        clear(y)
        for t in range(length):
            for block in range(first, last):
                gate = load(z.data, image * z.image + t * z.token + block * LANES)
                grad = load(grad_out.data, image * grad_out.image + t * grad_out.token + block * LANES)
                store(grad_y, ((block - first) * length + t) * LANES, half * grad * (gate * sigmoid(gate)))
        for block in range(first, last):
            at = (block - first) * length * LANES
            for side in range(2):
                _, p_side, weights = sides[side]
                _, _, of_BC, of_side = of_sides[side]
                _direction_backward(
                    item, image, block, length, chunk, 1 - 2 * side, tiles[side], at, p_side, weights, grad_y, y,
                    need_weights, step, step_x, slope, sums, grad_s, grad_step, grad_step_x, starts, kept,
                    grad_h, of_weights, of_raw[side], of_BC, of_side,
                )  # fmt: skip
        for t in range(length):
            for block in range(first, last):
                row, channel = image * length + t, block * LANES
                in_tile, at = ((block - first) * length + t) * LANES, row * channels + channel
                for side in range(2):
                    store(of_sides[side][0], at, load(tiles[side], in_tile))
                    store(of_sides[side][1], at, load(of_raw[side], in_tile))
                gate = load(z.data, image * z.image + t * z.token + channel)
                grad = load(grad_out.data, image * grad_out.image + t * grad_out.token + channel)
                store(grad_z, row * width + channels + channel, through_silu(half * grad, gate) * load(y, in_tile))
    for side in range(2):
        sum_pairs(item, of_sides[side][2])


# from tensors to kernels ------------------------------------------------------------------------------------------------


def forward(inputs: Inputs) -> Tensor:
    """``svp.ops.bidirectional_scan``"""
    xz, weights = inputs
    batch, length, width = xz.shape
    out = torch.empty(batch, length, width // 2, dtype=_stored_dtype(xz))
    kernel_weights = _both_kernel_weights(weights)
    keep_for_backward(weights, kernel_weights)
    for some_out, some_xz in _some_images_at_a_time(weights, out, xz):
        call = _Call(some_xz, weights, kernel_weights)
        _scan(call.items, call.groups, call.tile, *call.scan_inputs, numpy_view(some_out))
    return _cast(out, xz.dtype)


def backward(grads: list[Tensor], inputs: Inputs, needed: list[bool]) -> list[Tensor]:
    """Gradients of those of `xz` and the weights that `needed` marks; one weight costs as much as all."""
    xz, weights = inputs
    grad_xz = torch.empty(xz.shape, dtype=_stored_dtype(xz))
    kernel_weights = kept_for_backward(weights) or _both_kernel_weights(weights)
    if any(needed[1:]):  # sums over all images
        of_weights = _gradients(grads[0], xz, weights, kernel_weights, needed, grad_xz)
        return [_cast(grad_xz, xz.dtype)] * needed[0] + of_weights
    for some_grads, some_xz, some_grad_xz in _some_images_at_a_time(weights, grads[0], xz, grad_xz):
        _gradients(some_grads, some_xz, weights, kernel_weights, needed, some_grad_xz)
    return [_cast(grad_xz, xz.dtype)]


def _some_images_at_a_time(weights: list[Tensor], *tensors: Tensor) -> Iterable[tuple[Tensor, ...]]:
    """The tensors in parts of a few images, so that what is temporary stays small; whole if images have their own states."""
    threads = kernel_threads()
    _, length, width = tensors[0].shape
    few = threads * math.ceil(max(_FEW_IMAGES, _FEW_VALUES // (length * width)) / threads)
    if len(tensors[0]) < 2 * few or any(len(state) > 1 for state in weights[14:]):
        return [tensors]
    return zip(*(t.chunk(len(tensors[0]) // few) for t in tensors), strict=True)


def _gradients(
    grad_out: Tensor, xz: Tensor, weights: list[Tensor], kernel_weights: tuple[Weights, Weights], needed: list[bool],
    grad_xz: Tensor,
) -> list[Tensor]:  # fmt: skip
    """Writes `grad_xz` and returns the gradients of the weights."""
    call = _Call(xz, weights, kernel_weights)
    need_weights, need_states = any(needed[1:15]), any(needed[15:])
    batch, length, d_inner = call.inner
    d_state, blocks = weights[5].shape[1], d_inner // LANES
    states = d_state + -d_state % STATES
    kept = batch if need_weights else 0  # gradients of weights per image, those of the convolution per chunk
    grad_raw = [torch.empty(call.inner, dtype=call.dtype) for _ in range(2)]
    # in place: a tile is read before it is written
    grad_x = [torch.empty(call.inner, dtype=call.dtype) for _ in range(2)] if need_weights else call.convolved
    grad_BC = [torch.zeros(call.items, length, states // STATES, LANES) for _ in range(2)]
    of_weights = [np.empty((kept, blocks, states + call.dt_rank + 2, LANES), np.float32) for _ in range(2)]
    of_states = [np.empty((batch if need_states else 0, blocks, states, LANES), np.float32) for _ in range(2)]
    of_taps = [np.empty((kept * call.chunks, call.d_conv + 1, d_inner), np.float32) for _ in range(2)]
    _backward(
        call.items,
        call.groups,
        call.tile,
        min(length, KEPT_TOKENS),
        need_weights,
        rows(grad_out, _stored_dtype(xz)),
        *call.scan_inputs,
        *(numpy_view(t) for t in (*grad_x, *grad_raw)),
        *(t.numpy() for t in grad_BC),
        *zip(of_weights, of_states, strict=True),
        numpy_view(grad_xz),
    )
    grad_p, through_p = [], []
    for side, BC in enumerate(grad_BC):
        x_proj, dt_proj = (_cast(weights[7 * side + field], call.dtype) for field in (2, 3))
        of_dt = product(grad_raw.pop(0).view(-1, d_inner), dt_proj)  # the memory of grad_raw is free for what follows
        grad_p.append(_grad_p(of_dt, add_groups(BC, batch).flatten(0, 1), d_state))
        through_p.append(product(grad_p[side], split_bias(x_proj, d_inner)[0]))
    conv_backward(
        batch * call.chunks,
        call.chunks,
        call.d_conv,
        call.x,
        *call.kernel_weights,
        *(numpy_view(t.view(call.inner)) for t in (*grad_x, *through_p)),
        need_weights,
        numpy_view(grad_xz),
        *of_taps,
    )
    results: list[Tensor | None] = []
    for side in range(2 if need_weights else 0):
        own = weights[7 * side : 7 * side + 7]
        taps, by_channel = of_taps[side].sum(0), _by_channel(of_weights[side].sum(0))
        of_x_proj = product(grad_p[side].T, call.convolved[side].view(-1, d_inner))
        results += [
            _from_numpy(taps[:-1].T, own[0]),
            _from_numpy(taps[-1], own[1]),
            _cast(with_bias(of_x_proj, grad_p[side], own[2]), own[2].dtype),
            _from_numpy(by_channel[:, states : states + call.dt_rank], own[3]),
            _from_numpy(by_channel[:, -2], own[4]),
            _from_numpy(by_channel[:, :d_state], own[5]),
            _from_numpy(by_channel[:, -1], own[6]),
        ]
    results += [None] * (14 - len(results))
    if need_states:
        for grad, state in zip(of_states, weights[14:], strict=True):
            results.append(from_blocks(torch.from_numpy(grad), d_inner, d_state).sum_to_size(state.shape).to(state.dtype))
    return [grad for grad, need in zip(results, needed[1:], strict=False) if need and grad is not None]


def _grad_p(of_dt: Tensor, of_BC: Tensor, d_state: int) -> Tensor:
    """The gradient of p = [p_dt, B, C], a row per token; that of B and C has as many states as the kernels."""
    tokens, dt_rank = of_dt.shape
    states = of_BC.shape[1] // 2
    grad_p = of_dt.new_empty(tokens, dt_rank + 2 * d_state)
    grad_p[:, :dt_rank] = of_dt
    if states == d_state:
        grad_p[:, dt_rank:] = of_BC
    else:
        grad_p[:, dt_rank:].unflatten(1, (2, d_state)).copy_(of_BC.unflatten(1, (2, states))[..., :d_state])
    return grad_p


def _by_channel(t: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(blocks, n, 16) -> (d_inner, n)"""
    return t.transpose(0, 2, 1).reshape(-1, t.shape[1])


def _from_numpy(grad: npt.NDArray[np.float32], weight: Tensor) -> Tensor:
    """A gradient in memory of its own, as outputs must not share any."""
    return _cast(torch.from_numpy(grad.copy(order="C")), weight.dtype)


def _cast(t: Tensor, dtype: torch.dtype) -> Tensor:
    return t if t.dtype == dtype else t.to(dtype)


def _stored_dtype(xz: Tensor) -> torch.dtype:
    """In which the kernels read and write `xz`, the output and their gradients."""
    return torch.bfloat16 if xz.dtype == torch.bfloat16 else torch.float32


def _dtype_inside(xz: Tensor) -> torch.dtype:
    """In which convolved inputs go to the projections and the scan, and their gradients back.

    They do not outlive a call. In shorter vectors, to round them takes longer than to move twice the bytes.
    """
    return _stored_dtype(xz) if HAS_AVX512 or has_bf16_products() else torch.float32


class _Call:
    """What forward and backward share: the convolved inputs of both directions and their projections."""

    def __init__(self, xz: Tensor, weights: list[Tensor], kernel_weights: tuple[Weights, Weights]) -> None:
        self.dtype = _dtype_inside(xz)
        batch, length, width = xz.shape
        d_inner = width // 2
        self.inner = (batch, length, d_inner)
        self.d_conv, self.dt_rank = weights[0].shape[1], weights[3].shape[1]
        self.kernel_weights = kernel_weights
        self.x = rows(xz, _stored_dtype(xz))  # a convolution reads the first half of every row
        z = Rows(self.x.data[d_inner:], self.x.image, self.x.token)
        blocks = d_inner // LANES
        self.groups = groups_per_image(batch, blocks)
        self.items = batch * self.groups
        self.tile = max(1, min(_TILE_VECTORS // length, blocks // self.groups))
        self.chunks = math.ceil(length / CONV_CHUNK)
        self.convolved = [torch.empty(self.inner, dtype=self.dtype) for _ in range(2)]
        convolved = [numpy_view(x) for x in self.convolved]
        conv(batch * self.chunks, self.chunks, self.d_conv, self.x, *kernel_weights, *convolved)
        projected: list[Rows] = []
        for side, x in enumerate(self.convolved):
            with outside_autocast():
                p = project(x.view(-1, d_inner), _cast(weights[7 * side + 2].detach(), self.dtype))
            p = _padded(_cast(p, torch.float32), self.dt_rank)
            projected.append(Rows(p.numpy().reshape(-1), length * p.shape[1], p.shape[1]))
        self.scan_inputs: tuple[Any, ...] = (*convolved, *projected, *kernel_weights, z)


def _padded(p: Tensor, dt_rank: int) -> Tensor:
    """B and C in p = [p_dt, B, C] padded to as many states as the kernels have."""
    d_state = (p.shape[-1] - dt_rank) // 2
    if d_state % STATES == 0:
        return p
    p_dt, B, C = p.split([dt_rank, d_state, d_state], dim=-1)
    return torch.cat([p_dt, pad_states(B), pad_states(C)], dim=-1)


def _both_kernel_weights(weights: list[Tensor]) -> tuple[Weights, Weights]:
    state, state_b = weights[14:] or (None, None)
    return _kernel_weights(state, *weights[:7]), _kernel_weights(state_b, *weights[7:14])


def _kernel_weights(
    initial_state: Tensor | None, conv_weight: Tensor, conv_bias: Tensor, x_proj: Tensor, dt_proj: Tensor, dt_bias: Tensor,
    A: Tensor, D: Tensor,
) -> Weights:  # fmt: skip
    d_inner, d_state = A.shape
    missing = -d_state % STATES
    if initial_state is None:
        first = np.empty((0, d_inner // LANES, d_state + missing, LANES), np.float32)
    else:
        first = to_blocks(pad_states(initial_state)).numpy()
    decay_rate = values(A) * LOG2_E
    if missing:
        decay_rate = np.pad(decay_rate, ((0, 0), (0, missing)))
    rates, decay_rate = _by_block(values(dt_proj)), _by_block(decay_rate)
    return Weights(flat(conv_weight.T), flat(conv_bias), rates, flat(dt_bias), decay_rate, flat(D), first)


def _by_block(t: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(d_inner, n) -> (blocks, n, 16)"""
    return np.ascontiguousarray(t.reshape(-1, LANES, t.shape[1]).transpose(0, 2, 1))
