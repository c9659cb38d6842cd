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
import torch
from torch import Tensor

from svp.ops.bidirectional_scan.cpu_numba_conv import (
    CONV_CHUNK,
    Weights,
    conv,
    conv_backward,
)
from svp.ops.bidirectional_scan.kept import keep_for_backward, kept_for_backward
from svp.ops.bidirectional_scan.reference import Inputs, project, with_bias
from svp.ops.causal_conv1d.cpu_numba import through_silu
from svp.ops.compiling import function, inlined, kernel, part
from svp.ops.linear import product
from svp.ops.rows import LANES, Rows, flat, numpy_view, rows
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
from svp.ops.simd import LOG2_E, broadcast, clear, empty, fma, load, sigmoid, splat, store
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


@part
def _direction_backward(
    item, image, block, length, chunk, direction, x, at, p, weights, grad_y, y, need_weights,
    step, step_x, slope, sums, grad_s, grad_step, grad_step_x, starts, kept, grad_h, of_A,
    grad_raw, grad_BC, grad_AD,
):  # fmt: skip
    """One direction of one block of channels: adds its output to `y`, writes grad_raw, adds to grad_B and grad_C.

    The gradient of x takes its place in the tile `x`. Gradients of A, D and the initial state are kept per image. Tiles are
    in the order of the tokens; everything per chunk is in that of the recurrence.
    """
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
    clear(of_A)
    total_D = splat(_ZERO)
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
                need_weights, True, 0, grad_h, grad_step, grad_step_x, of_A, grad_BC,
            )  # fmt: skip
        for i in range(count):
            t = at + (token + direction * i) * LANES
            x_t, grad, of_step_x = load(x, t), load(grad_s, i * LANES), load(grad_step_x, i * LANES)
            store(y, t, load(y, t) + fma(skip, x_t, load(sums, i * LANES)))
            store(x, t, fma(of_step_x, load(step, i * LANES), skip * grad))
            of_step = fma(of_step_x, x_t, load(grad_step, i * LANES) * splat(_LN_2))  # decay_rate is A * log2(e)
            store(grad_raw, t, of_step * load(slope, i * LANES))
            total_D = fma(grad, x_t, total_D)
    if need_weights:
        of_image = image * weights.D.shape[0] + channel
        store(grad_AD[1], of_image, total_D)
        for n in range(d_state):
            store(grad_AD[0], of_image * d_state + n * LANES, load(of_A, n * LANES))
    if grad_AD[2].shape[0]:
        for n in range(0, d_state * LANES, LANES):  # grad_h has gone through the first token
            store(grad_AD[2], (image * weights.D.shape[0] + channel) * d_state + n, load(grad_h, n))


@kernel
def _backward(
    item, groups, tile, chunk, need_weights, grad_out, x_forward, x_backward, p, p_b, forward, backward, z,
    grad_x, grad_x_b, grad_raw, grad_raw_b, grad_BC, grad_BC_b, grad_AD, grad_AD_b, grad_z,
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
    grad_h, of_A = empty(d_state * LANES), empty(d_state * LANES)
    size = tile * length * LANES
    y, grad_y = empty(size), empty(size)
    tiles, of_raw = (empty(size), empty(size)), (empty(size), empty(size))
    sides = ((x_forward, p, forward), (x_backward, p_b, backward))
    of_sides = ((grad_x, grad_raw, grad_BC, grad_AD), (grad_x_b, grad_raw_b, grad_BC_b, grad_AD_b))
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
                _, _, of_BC, of_AD = of_sides[side]
                _direction_backward(
                    item, image, block, length, chunk, 1 - 2 * side, tiles[side], at, p_side, weights, grad_y, y,
                    need_weights, step, step_x, slope, sums, grad_s, grad_step, grad_step_x, starts, kept,
                    grad_h, of_A, of_raw[side], of_BC, of_AD,
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
    out = torch.empty(batch, length, width // 2, dtype=_dtype_inside(xz))
    kernel_weights = _both_kernel_weights(weights)
    keep_for_backward(weights, kernel_weights)
    for some_out, some_xz in _some_images_at_a_time(weights, out, xz):
        call = _Call(some_xz, weights, kernel_weights)
        _scan(call.items, call.groups, call.tile, *call.scan_inputs, numpy_view(some_out))
    return out.to(xz.dtype)


def backward(grads: list[Tensor], inputs: Inputs, needed: list[bool]) -> list[Tensor]:
    """Gradients of those of `xz` and the weights that `needed` marks; one weight costs as much as all."""
    xz, weights = inputs
    grad_xz = torch.empty(xz.shape, dtype=_dtype_inside(xz))
    kernel_weights = kept_for_backward(weights) or _both_kernel_weights(weights)
    if any(needed[1:]):  # sums over all images
        of_weights = _gradients(grads[0], xz, weights, kernel_weights, needed, grad_xz)
        return [grad_xz.to(xz.dtype)] * needed[0] + of_weights
    for some_grads, some_xz, some_grad_xz in _some_images_at_a_time(weights, grads[0], xz, grad_xz):
        _gradients(some_grads, some_xz, weights, kernel_weights, needed, some_grad_xz)
    return [grad_xz.to(xz.dtype)]


def _some_images_at_a_time(weights: list[Tensor], *tensors: Tensor) -> Iterable[tuple[Tensor, ...]]:
    """The tensors in parts of a few images, so that what is temporary stays small; whole if images have their own states."""
    threads = kernel_threads()
    _, length, width = tensors[0].shape
    few = threads * math.ceil(max(_FEW_IMAGES, _FEW_VALUES // (length * width)) / threads)
    parts = 1 if any(len(state) > 1 for state in weights[14:]) else max(1, len(tensors[0]) // few)
    return zip(*(t.chunk(parts) for t in tensors), strict=True)


def _gradients(
    grad_out: Tensor, xz: Tensor, weights: list[Tensor], kernel_weights: tuple[Weights, Weights], needed: list[bool],
    grad_xz: Tensor,
) -> list[Tensor]:  # fmt: skip
    """Writes `grad_xz` and returns the gradients of the weights."""
    call = _Call(xz, weights, kernel_weights)
    need_weights, need_states = any(needed[1:15]), any(needed[15:])
    batch, length, d_inner = call.inner
    d_state = weights[5].shape[1]
    states = d_state + -d_state % STATES
    kept = batch if need_weights else 0  # gradients of weights per image, those of the convolution per chunk
    grad_raw = [torch.empty(call.inner, dtype=call.dtype) for _ in range(2)]
    # in place: a tile is read before it is written
    grad_x = [torch.empty(call.inner, dtype=call.dtype) for _ in range(2)] if need_weights else call.convolved
    grad_BC = [torch.zeros(call.items, length, states // STATES, LANES) for _ in range(2)]
    of_states = (batch if need_states else 0, d_inner // LANES, states, LANES)
    grad_AD = [
        [torch.empty(kept, *of_states[1:]), torch.empty(kept, d_inner), torch.empty(of_states)] for _ in range(2)
    ]  # and of the initial states
    grad_taps = [torch.empty(kept * call.chunks, call.d_conv + 1, d_inner) for _ in range(2)]
    _backward(
        call.items,
        call.groups,
        call.tile,
        min(length, KEPT_TOKENS),
        need_weights,
        rows(grad_out, call.dtype),
        *call.scan_inputs,
        *(numpy_view(t) for t in (*grad_x, *grad_raw)),
        *(t.numpy() for t in grad_BC),
        *(tuple(t.numpy() for t in kept) for kept in grad_AD),
        numpy_view(grad_xz),
    )
    grad_p, through_p = [], []
    for side in range(2):
        x_proj, dt_proj = (weights[7 * side + field].to(call.dtype) for field in (2, 3))
        of_raw = grad_raw[side] if need_weights else grad_raw.pop(0)  # its memory is free for what follows
        grad_p.append(_grad_p(product(of_raw, dt_proj), grad_BC[side], d_state))
        del of_raw
        through_p.append(product(grad_p[side], x_proj[:, :d_inner]).view(call.inner))
    conv_backward(
        batch * call.chunks,
        call.chunks,
        call.d_conv,
        call.x,
        *call.kernel_weights,
        *(numpy_view(t) for t in (*grad_x, *through_p)),
        need_weights,
        *(numpy_view(t) for t in (grad_xz, *grad_taps)),
    )
    results: list[Tensor | None] = []
    for side in range(2 if need_weights else 0):
        of_taps, of_raw = grad_taps[side].sum(0), grad_raw[side].view(-1, d_inner)
        of_A, of_D = (t.sum(0) for t in grad_AD[side][:2])
        of_weights = (
            of_taps[:-1].T,
            of_taps[-1].clone(),  # outputs must not share memory
            with_bias(product(grad_p[side].T, call.convolved[side].view(-1, d_inner)), grad_p[side], weights[7 * side + 2]),
            product(of_raw.T, call.projected[side].view(batch * length, -1)[:, : call.dt_rank]),
            of_raw.sum(0, dtype=torch.float32),
            of_A.transpose(1, 2).reshape(d_inner, states)[:, :d_state],
            of_D,
        )
        own = weights[7 * side : 7 * side + 7]
        results += [grad.to(weight.dtype).contiguous() for grad, weight in zip(of_weights, own, strict=True)]
    results += [None] * (14 - len(results))
    if need_states:
        for (*_, grad), state in zip(grad_AD, weights[14:], strict=True):
            results.append(from_blocks(grad, d_inner, d_state).sum_to_size(state.shape).to(state.dtype))
    return [grad for grad, need in zip(results, needed[1:], strict=False) if need and grad is not None]


def _grad_p(of_dt: Tensor, grad_BC: Tensor, d_state: int) -> Tensor:
    """The gradient of p = [p_dt, B, C], a row per token."""
    batch, length, dt_rank = of_dt.shape
    grad_p = of_dt.new_empty(batch, length, dt_rank + 2 * d_state)
    grad_p[..., :dt_rank] = of_dt
    for kind, grad in enumerate(add_groups(grad_BC, batch)):
        columns = grad_p[..., dt_rank + kind * d_state :][..., :d_state]
        if d_state % STATES:
            columns.copy_(grad.flatten(2)[..., :d_state])
        else:
            columns.unflatten(2, (-1, STATES)).copy_(grad)
    return grad_p.view(batch * length, -1)


def _dtype_inside(xz: Tensor) -> torch.dtype:
    """In which the kernels read and write what is as wide as `xz`."""
    return torch.bfloat16 if xz.dtype == torch.bfloat16 else torch.float32


class _Call:
    """What forward and backward share: the convolved inputs of both directions and their projections."""

    def __init__(self, xz: Tensor, weights: list[Tensor], kernel_weights: tuple[Weights, Weights]) -> None:
        self.dtype = _dtype_inside(xz)
        xz = xz.detach().to(self.dtype)
        batch, length, width = xz.shape
        d_inner = width // 2
        self.inner = (batch, length, d_inner)
        self.d_conv, self.dt_rank = weights[0].shape[1], weights[3].shape[1]
        self.kernel_weights = kernel_weights
        self.x: Rows = rows(xz[..., :d_inner], self.dtype)
        blocks = d_inner // LANES
        self.groups = groups_per_image(batch, blocks)
        self.items = batch * self.groups
        self.tile = max(1, min(_TILE_VECTORS // length, blocks // self.groups))
        self.chunks = math.ceil(length / CONV_CHUNK)
        self.convolved = [torch.empty(self.inner, dtype=self.dtype) for _ in range(2)]
        conv(
            batch * self.chunks,
            self.chunks,
            self.d_conv,
            self.x,
            *self.kernel_weights,
            *(numpy_view(t) for t in self.convolved),
        )
        self.projected = [project(x, weights[7 * side + 2].to(self.dtype)) for side, x in enumerate(self.convolved)]
        self.scan_inputs: tuple[Any, ...] = (
            *(numpy_view(x) for x in self.convolved),
            *(rows(_padded(p.float(), self.dt_rank)) for p in self.projected),
            *self.kernel_weights,
            rows(xz[..., d_inner:], self.dtype),
        )


def _padded(p: Tensor, dt_rank: int) -> Tensor:
    """B and C in p = [p_dt, B, C] padded to as many states as the kernels have."""
    d_state = (p.shape[-1] - dt_rank) // 2
    if d_state % STATES == 0:
        return p
    p_dt, B, C = p.split([dt_rank, d_state, d_state], dim=-1)
    return torch.cat([p_dt, pad_states(B), pad_states(C)], dim=-1)


def _both_kernel_weights(weights: list[Tensor]) -> tuple[Weights, Weights]:
    state, state_b = weights[14:] or 2 * [weights[5].new_empty(0, *weights[5].shape)]
    return _kernel_weights(state, *weights[:7]), _kernel_weights(state_b, *weights[7:14])


def _kernel_weights(
    initial_state: Tensor, conv_weight: Tensor, conv_bias: Tensor, x_proj: Tensor, dt_proj: Tensor, dt_bias: Tensor,
    A: Tensor, D: Tensor,
) -> Weights:  # fmt: skip
    rates, decay_rate = to_blocks(dt_proj[None])[0], to_blocks(pad_states(A.float()[None] * float(LOG2_E)))[0]
    first = to_blocks(pad_states(initial_state)).numpy()
    return Weights(flat(conv_weight.T), flat(conv_bias), rates.numpy(), flat(dt_bias), decay_rate.numpy(), flat(D), first)
