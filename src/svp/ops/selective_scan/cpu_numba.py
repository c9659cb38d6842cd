"""The scan on a CPU in float32, by Numba. Sixteen channels are the lanes of a vector, their states stay in the L1 cache.

Work items are (image, group of channel blocks). A block of sixteen channels runs through time in chunks: step sizes of the
chunk, the recurrence, then skip and gate. The backward saves the state at the start of every chunk, runs each chunk again
with all its states and decays kept, then sweeps back through it; see ``any_device`` for the equations. Sums over channels
(the gradients of B and C) are kept per work item, sums over time (A, D) per image, and the host adds them up.

Channel-wise parameters reach the kernels as (blocks, ..., 16), `A` as decay_rate = A * log2(e), so that exp(step * A) =
exp2(step * decay_rate). ``first`` and ``direction`` are the token the recurrence starts at and +1 or -1: kernels count steps.
"""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from svp.ops.compiling import function, kernel
from svp.ops.rows import LANES, flat, pad_channels, rows
from svp.ops.selective_scan.reference import Inputs
from svp.ops.simd import (
    LOG2_E,
    broadcast,
    clear,
    empty,
    exp2,
    fma,
    lane_sums,
    load,
    sigmoid,
    softplus,
    splat,
    store,
)
from svp.ops.threads import kernel_threads

_FORWARD_CHUNK = 64  # tokens; three vectors each, so that a chunk stays in the L1 cache
_KEPT_VECTORS = 4096  # states of a backward chunk, 256 kB, and as many decays: both in the L2 cache
_ZERO, _ONE, _LN_2 = np.float32(0), np.float32(1), np.float32(math.log(2))


@function
def chunk_steps(count, image, token, direction, channel, x, step, step_x):
    """From step[i] before the softplus to step[i] and step[i] * x[i], of `count` tokens from `token` on.

    All that follows is about the block of channels at `channel`.
    """
    for i in range(count):
        value = softplus(load(step, i * LANES))
        store(step, i * LANES, value)
        store(step_x, i * LANES, value * load(x.data, image * x.image + (token + direction * i) * x.token + channel))


@function
def _raw_steps(count, image, token, direction, channel, dt, dt_bias, step):
    """step[i] before the softplus."""
    bias = load(dt_bias, channel)
    for i in range(count):
        store(step, i * LANES, load(dt.data, image * dt.image + (token + direction * i) * dt.token + channel) + bias)


@function
def chunk_states(count, image, token, direction, channel, d_state, decay_rate, B, C, step, step_x, h, y):
    """The recurrence over `count` tokens: updates `h`, (d_state, 16), and fills y[i] = C[i] . h[i]."""
    for i in range(count):
        t = token + direction * i
        B_row, C_row = image * B.image + t * B.token, image * C.image + t * C.token
        s, sx = load(step, i * LANES), load(step_x, i * LANES)
        total = splat(_ZERO)
        for n in range(d_state):
            decay = exp2(s * load(decay_rate, channel * d_state + n * LANES))
            state = fma(decay, load(h, n * LANES), sx * broadcast(B.data, B_row + n))
            store(h, n * LANES, state)
            total = fma(state, broadcast(C.data, C_row + n), total)
        store(y, i * LANES, total)


@function
def first_state(image, block, initial_state, h):
    """Fill `h`, (d_state, 16), with the state in front of the first token, out of (images, blocks, d_state, 16).

    One image is that of all; without any the state is zero.
    """
    images, blocks, d_state = initial_state.shape[0], initial_state.shape[1], initial_state.shape[2]
    if images == 0:
        clear(h)
        return
    at = (image % images * blocks + block) * d_state * LANES
    for n in range(0, d_state * LANES, LANES):
        store(h, n, load(initial_state, at + n))


@kernel
def _forward(
    item, groups, x, dt, decay_rate, B, C, D, z, dt_bias, initial_state, has_D, has_z, first, direction, y, last_state
):  # fmt: skip
    """One image, one group of channel blocks."""
    length, blocks, d_state = y.shape[1], decay_rate.shape[0], decay_rate.shape[1]
    image, group = item // groups, item % groups
    h = empty(d_state * LANES)
    step, step_x, sums = empty(_FORWARD_CHUNK * LANES), empty(_FORWARD_CHUNK * LANES), empty(_FORWARD_CHUNK * LANES)
    for block in range(group * blocks // groups, (group + 1) * blocks // groups):
        channel = block * LANES
        first_state(image, block, initial_state, h)
        for start in range(0, length, _FORWARD_CHUNK):
            count = min(_FORWARD_CHUNK, length - start)
            token = first + direction * start
            _raw_steps(count, image, token, direction, channel, dt, dt_bias, step)
            chunk_steps(count, image, token, direction, channel, x, step, step_x)
            chunk_states(count, image, token, direction, channel, d_state, decay_rate, B, C, step, step_x, h, sums)
            for i in range(count):
                t = token + direction * i
                value = load(sums, i * LANES)
                if has_D:
                    value = fma(load(D, channel), load(x.data, image * x.image + t * x.token + channel), value)
                if has_z:
                    gate = load(z.data, image * z.image + t * z.token + channel)
                    value = value * (gate * sigmoid(gate))
                store(y, (image * length + t) * blocks * LANES + channel, value)
        for n in range(d_state):
            store(last_state, ((image * blocks + block) * d_state + n) * LANES, load(h, n * LANES))


@function
def chunk_states_kept(count, image, token, direction, channel, d_state, decay_rate, B, C, step, step_x, h, states, decays, y):
    """As ``chunk_states`` from the state `h`, with every state, (count + 1, d_state, 16), and decay written down."""
    for n in range(d_state):
        store(states, n * LANES, load(h, n * LANES))
    for i in range(count):
        t = token + direction * i
        B_row, C_row = image * B.image + t * B.token, image * C.image + t * C.token
        s, sx = load(step, i * LANES), load(step_x, i * LANES)
        total = splat(_ZERO)
        for n in range(d_state):
            at = (i * d_state + n) * LANES
            decay = exp2(s * load(decay_rate, channel * d_state + n * LANES))
            state = fma(decay, load(states, at), sx * broadcast(B.data, B_row + n))
            store(decays, at, decay)
            store(states, at + d_state * LANES, state)
            total = fma(state, broadcast(C.data, C_row + n), total)
        store(y, i * LANES, total)


@function
def _chunk_grad_sums(count, image, token, direction, channel, grad_y, z, has_z, grad_s):
    """Gradient of y before the gate."""
    for i in range(count):
        t = token + direction * i
        grad = load(grad_y.data, image * grad_y.image + t * grad_y.token + channel)
        if has_z:
            gate = load(z.data, image * z.image + t * z.token + channel)
            grad = grad * (gate * sigmoid(gate))
        store(grad_s, i * LANES, grad)


@function
def chunk_sweep(
    count, image, token, direction, channel, item, decay_rate, B, C, step, step_x, states, decays, grad_s,
    need_A, need_BC, grad_h, grad_state, grad_step, grad_step_x, grad_A, grad_B, grad_C, products_B, products_C,
):  # fmt: skip
    """From the last token of the chunk back to the first. The gradient of h is kept at `grad_h` in `grad_state`."""
    length, padded_states = grad_B.shape[1], grad_B.shape[2]
    d_state = decay_rate.shape[1]
    for i in range(count - 1, -1, -1):
        t = token + direction * i
        B_row, C_row = image * B.image + t * B.token, image * C.image + t * C.token
        s, sx, grad = load(step, i * LANES), load(step_x, i * LANES), load(grad_s, i * LANES)
        total_x, total = splat(_ZERO), splat(_ZERO)
        for n in range(d_state):
            at = (i * d_state + n) * LANES
            g = fma(grad, broadcast(C.data, C_row + n), load(grad_state, grad_h + n * LANES))
            total_x = fma(g, broadcast(B.data, B_row + n), total_x)
            if need_BC:
                store(products_B, n * LANES, g * sx)
                store(products_C, n * LANES, grad * load(states, at + d_state * LANES))
            g = g * load(decays, at)
            store(grad_state, grad_h + n * LANES, g)
            e = g * load(states, at)
            total = fma(e, load(decay_rate, channel * d_state + n * LANES), total)
            if need_A:
                store(grad_A, grad_h + n * LANES, fma(e, s, load(grad_A, grad_h + n * LANES)))
        store(grad_step_x, i * LANES, total_x)
        store(grad_step, i * LANES, total * splat(_LN_2))  # decay_rate is A * log2(e)
        if need_BC:
            for n in range(0, padded_states, LANES):
                at = (item * length + t) * padded_states + n
                store(grad_B, at, load(grad_B, at) + lane_sums(products_B, n * LANES))
                store(grad_C, at, load(grad_C, at) + lane_sums(products_C, n * LANES))


@kernel
def _backward(
    item, groups, chunk, grad_y, x, dt, decay_rate, B, C, D, z, dt_bias, initial_state, has_D, has_z, first, direction,
    need_A, need_BC, need_z, grad_state, grad_x, grad_dt, grad_A, grad_B, grad_C, grad_D, grad_z,
):  # fmt: skip
    """One image, one group of channel blocks. `grad_state`, the gradient of the last state, becomes that of the first."""
    length, blocks, d_state = grad_x.shape[1], decay_rate.shape[0], decay_rate.shape[1]
    image, group = item // groups, item % groups
    width = d_state * LANES
    chunks = (length + chunk - 1) // chunk
    step, step_x, sums = empty(chunk * LANES), empty(chunk * LANES), empty(chunk * LANES)
    grad_s, grad_step, grad_step_x = empty(chunk * LANES), empty(chunk * LANES), empty(chunk * LANES)
    starts = empty(chunks * width).reshape(chunks, width)  # the state before every chunk
    states, decays = empty((chunk + 1) * width), empty(chunk * width)
    products_B, products_C = empty(grad_B.shape[2] * LANES), empty(grad_B.shape[2] * LANES)
    products_B[:] = _ZERO
    products_C[:] = _ZERO
    one = splat(_ONE)

    for block in range(group * blocks // groups, (group + 1) * blocks // groups):
        channel = block * LANES
        skip, bias, total_D = load(D, channel), load(dt_bias, channel), splat(_ZERO)
        first_state(image, block, initial_state, starts[0])
        for c in range(chunks - 1):
            token = first + direction * c * chunk
            _raw_steps(chunk, image, token, direction, channel, dt, dt_bias, step)
            chunk_steps(chunk, image, token, direction, channel, x, step, step_x)
            for n in range(d_state):  # an assignment of arrays would compile the words of an error about their shapes
                store(starts, (c + 1) * width + n * LANES, load(starts, c * width + n * LANES))
            chunk_states(chunk, image, token, direction, channel, d_state, decay_rate, B, C, step, step_x, starts[c + 1], sums)
        for c in range(chunks - 1, -1, -1):
            count = min(chunk, length - c * chunk)
            token = first + direction * c * chunk
            _raw_steps(count, image, token, direction, channel, dt, dt_bias, step)
            chunk_steps(count, image, token, direction, channel, x, step, step_x)
            chunk_states_kept(
                count, image, token, direction, channel, d_state, decay_rate, B, C, step, step_x, starts[c],
                states, decays, sums,
            )  # fmt: skip
            _chunk_grad_sums(count, image, token, direction, channel, grad_y, z, has_z, grad_s)
            chunk_sweep(
                count, image, token, direction, channel, item, decay_rate, B, C, step, step_x, states, decays, grad_s,
                need_A, need_BC, (image * blocks + block) * width, grad_state, grad_step, grad_step_x,
                grad_A, grad_B, grad_C, products_B, products_C,
            )  # fmt: skip
            for i in range(count):
                t = token + direction * i
                out = (image * length + t) * blocks * LANES + channel
                x_t = load(x.data, image * x.image + t * x.token + channel)
                of_step_x = load(grad_step_x, i * LANES)
                of_step = fma(of_step_x, x_t, load(grad_step, i * LANES))
                raw_step = load(dt.data, image * dt.image + t * dt.token + channel) + bias
                store(grad_dt, out, of_step * sigmoid(raw_step))
                of_x, ungated = of_step_x * load(step, i * LANES), load(sums, i * LANES)
                if has_D:
                    grad = load(grad_s, i * LANES)
                    of_x = fma(skip, grad, of_x)
                    total_D = fma(grad, x_t, total_D)
                    ungated = fma(skip, x_t, ungated)
                store(grad_x, out, of_x)
                if need_z:
                    gate = load(z.data, image * z.image + t * z.token + channel)
                    slope = sigmoid(gate)
                    grad = load(grad_y.data, image * grad_y.image + t * grad_y.token + channel)
                    store(grad_z, out, grad * ungated * (slope * fma(gate, one - slope, one)))
        store(grad_D, (image * blocks + block) * LANES, total_D)


def forward(inputs: Inputs, reverse: bool) -> tuple[Tensor, Tensor]:
    """y and last state of ``svp.ops.selective_scan``, in float32."""
    batch, length, d_inner = inputs.x.shape
    d_state = inputs.A.shape[1]
    blocks = math.ceil(d_inner / LANES)
    y = torch.empty(batch, length, blocks * LANES)
    last_state = torch.empty(batch, blocks, d_state, LANES)
    groups = groups_per_image(batch, blocks)
    _forward(batch * groups, groups, *_kernel_inputs(inputs, reverse), y.numpy(), last_state.numpy())
    return y[..., :d_inner].to(inputs.x.dtype).contiguous(), from_blocks(last_state, d_inner)


def backward(grads: list[Tensor], inputs: Inputs, needed: list[bool], reverse: bool) -> list[Tensor]:
    """Gradients of the inputs that `needed` marks, in their order."""
    grad_y, grad_state = grads
    batch, length, d_inner = inputs.x.shape
    d_state = inputs.A.shape[1]
    blocks = math.ceil(d_inner / LANES)
    groups = groups_per_image(batch, blocks)
    need_A, need_BC, need_z = needed[2], needed[3] or needed[4], needed[6]
    chunk = min(length, max(1, _KEPT_VECTORS // d_state))

    def space(needed: bool, *shape: int) -> Tensor:
        return torch.zeros(shape if needed else (1,) * len(shape))

    inner = (batch, length, blocks * LANES)
    grad_x, grad_dt = torch.empty(inner), torch.empty(inner)
    grad_z = torch.empty(inner if need_z else (1, 1, 1))
    grad_A = space(need_A, batch, blocks, d_state, LANES)
    states = math.ceil(d_state / LANES) * LANES
    grad_B = space(need_BC, batch * groups, length, states) if need_BC else torch.zeros(1, 1, states)
    grad_C = torch.zeros_like(grad_B)
    grad_D = torch.empty(batch, blocks, LANES)
    grad_first_state = to_blocks(grad_state)
    outputs = (grad_first_state, grad_x, grad_dt, grad_A, grad_B, grad_C, grad_D, grad_z)
    _backward(
        batch * groups,
        groups,
        chunk,
        rows(pad_channels(grad_y)),
        *_kernel_inputs(inputs, reverse),
        need_A,
        need_BC,
        need_z,
        *(t.numpy() for t in outputs),
    )

    def over_groups(partial: Tensor) -> Tensor:
        return partial.view(batch, groups, length, states)[..., :d_state].sum(1)

    results = (
        lambda: grad_x[..., :d_inner],
        lambda: grad_dt[..., :d_inner],
        lambda: from_blocks(grad_A.sum(0, keepdim=True), d_inner)[0],
        lambda: over_groups(grad_B),
        lambda: over_groups(grad_C),
        lambda: grad_D.sum(0).view(-1)[:d_inner],
        lambda: grad_z[..., :d_inner],
        lambda: grad_dt.sum((0, 1))[:d_inner],
        lambda: from_blocks(grad_first_state, d_inner).sum_to_size(cast(Tensor, inputs.initial_state).shape),
    )
    return [
        result().to(given.dtype).contiguous()
        for result, given, need in zip(results, inputs, needed, strict=True)
        if need and given is not None
    ]


def _kernel_inputs(inputs: Inputs, reverse: bool) -> tuple[Any, ...]:
    """The arguments that both kernels read, in their order; an absent one is a placeholder that is not read."""
    x, dt, A, B, C, D, z, dt_bias, initial_state = inputs
    zeros = A.new_zeros(A.shape[0])
    decay_rate = to_blocks(A.detach().float()[None] * float(LOG2_E))[0]
    x_rows = rows(pad_channels(x))
    return (
        x_rows,
        rows(pad_channels(dt)),
        decay_rate.numpy(),
        rows(B),
        rows(C),
        flat(pad_channels(zeros if D is None else D)),
        x_rows if z is None else rows(pad_channels(z)),
        flat(pad_channels(zeros if dt_bias is None else dt_bias)),
        to_blocks(A[None, :, :][:0] if initial_state is None else initial_state).numpy(),
        D is not None,
        z is not None,
        x.shape[1] - 1 if reverse else 0,
        -1 if reverse else 1,
    )


def groups_per_image(batch: int, blocks: int) -> int:
    """Groups of channel blocks per image: as few as give every thread the same number of work items."""
    threads = kernel_threads()
    return 1 if batch >= 8 * threads else min(blocks, threads // math.gcd(batch, threads))


def to_blocks(t: Tensor) -> Tensor:
    """(n, d_inner, d_state) -> a new (n, blocks, d_state, 16), float32"""
    n, d_inner, d_state = t.shape
    t, missing = t.detach().float(), -d_inner % LANES
    padded = F.pad(t, (0, 0, 0, missing)) if missing else t
    blocks = padded.reshape(n, (d_inner + missing) // LANES, LANES, d_state)
    return blocks.transpose(2, 3).clone(memory_format=torch.contiguous_format)


def from_blocks(t: Tensor, d_inner: int) -> Tensor:
    """(n, blocks, d_state, 16) -> (n, d_inner, d_state)"""
    return t.transpose(2, 3).flatten(1, 2)[:, :d_inner].contiguous()
