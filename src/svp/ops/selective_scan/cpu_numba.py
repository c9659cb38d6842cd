"""The scan on a CPU in float32, by Numba. Sixteen channels are the lanes of a vector, their states stay in the L1 cache.

Work items are (image, group of channel blocks). A block of sixteen channels runs through time in chunks: step sizes of the
chunk, the recurrence, then skip and gate. Four states at a time go through the chunk in registers. The backward saves the
state at the start of every chunk, runs each chunk again with the states and decays of four states kept, then sweeps back
through these; see ``any_device`` for the equations. Sums over channels (the gradients of B and C) are kept per work item,
sums over time (A, D) per image, and the host adds them up.

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

from svp.ops.compiling import function, inlined, kernel
from svp.ops.rows import LANES, flat, pad_channels, rows
from svp.ops.selective_scan.reference import Inputs
from svp.ops.simd import (
    LOG2_E,
    broadcast,
    clear,
    empty,
    exp2,
    fma,
    lane_pair_sums,
    lanes_by_pairs,
    load,
    sigmoid,
    softplus,
    splat,
    store,
)
from svp.ops.threads import kernel_threads

_FORWARD_CHUNK = 64  # tokens; three vectors each, so that a chunk stays in the L1 cache
STATES = 4  # that go through time together, in registers; d_state is padded to a multiple
KEPT_TOKENS = 1024  # of a backward chunk: so many states and decays are 512 kB, in the L2 cache
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


@inlined
def _next_state(s, sx, rate, B, B_at, h):
    """The decay and the state behind it."""
    decay = exp2(s * rate)
    return decay, fma(decay, h, sx * broadcast(B.data, B_at))


@inlined
def _four(array, at):
    """The vectors of four neighbouring states."""
    return load(array, at), load(array, at + LANES), load(array, at + 2 * LANES), load(array, at + 3 * LANES)


@inlined
def _store_four(array, at, a, b, c, d):
    store(array, at, a)
    store(array, at + LANES, b)
    store(array, at + 2 * LANES, c)
    store(array, at + 3 * LANES, d)


@inlined
def _read_out(C, at, a, b, c, d, total):
    """total + C . h of four states"""
    total = fma(a, broadcast(C.data, at), total)
    total = fma(b, broadcast(C.data, at + 1), total)
    total = fma(c, broadcast(C.data, at + 2), total)
    return fma(d, broadcast(C.data, at + 3), total)


@function
def chunk_states(count, image, token, direction, channel, d_state, decay_rate, B, C, step, step_x, h, y):
    """The recurrence over `count` tokens: updates `h`, (d_state, 16), and fills y[i] = C[i] . h[i]."""
    for i in range(count):
        store(y, i * LANES, splat(_ZERO))
    for n in range(0, d_state, STATES):
        r_0, r_1, r_2, r_3 = _four(decay_rate, channel * d_state + n * LANES)
        h_0, h_1, h_2, h_3 = _four(h, n * LANES)
        for i in range(count):
            t = token + direction * i
            B_at, C_at = image * B.image + t * B.token + n, image * C.image + t * C.token + n
            s, sx = load(step, i * LANES), load(step_x, i * LANES)
            _, h_0 = _next_state(s, sx, r_0, B, B_at, h_0)
            _, h_1 = _next_state(s, sx, r_1, B, B_at + 1, h_1)
            _, h_2 = _next_state(s, sx, r_2, B, B_at + 2, h_2)
            _, h_3 = _next_state(s, sx, r_3, B, B_at + 3, h_3)
            store(y, i * LANES, _read_out(C, C_at, h_0, h_1, h_2, h_3, load(y, i * LANES)))
        _store_four(h, n * LANES, h_0, h_1, h_2, h_3)


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
def states_kept(count, image, token, direction, channel, n, d_state, decay_rate, B, C, step, step_x, h, kept, y):
    """The recurrence of four states from `h` on, with every decay and the state in front of it kept; adds C[i] . h[i] to y[i].

    `kept` is (count + 1, 8, 16), where the last states are in front of a decay that there is not.
    """
    r_0, r_1, r_2, r_3 = _four(decay_rate, channel * d_state + n * LANES)
    h_0, h_1, h_2, h_3 = _four(h, n * LANES)
    for i in range(count):
        t = token + direction * i
        B_at, C_at = image * B.image + t * B.token + n, image * C.image + t * C.token + n
        s, sx = load(step, i * LANES), load(step_x, i * LANES)
        at = 2 * i * STATES * LANES
        _store_four(kept, at + STATES * LANES, h_0, h_1, h_2, h_3)
        d_0, h_0 = _next_state(s, sx, r_0, B, B_at, h_0)
        d_1, h_1 = _next_state(s, sx, r_1, B, B_at + 1, h_1)
        d_2, h_2 = _next_state(s, sx, r_2, B, B_at + 2, h_2)
        d_3, h_3 = _next_state(s, sx, r_3, B, B_at + 3, h_3)
        _store_four(kept, at, d_0, d_1, d_2, d_3)
        store(y, i * LANES, _read_out(C, C_at, h_0, h_1, h_2, h_3, load(y, i * LANES)))
    _store_four(kept, (2 * count + 1) * STATES * LANES, h_0, h_1, h_2, h_3)


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


@inlined
def _of_A(grad_A, at, e, s):
    store(grad_A, at, fma(e, s, load(grad_A, at)))


@function
def sweep(
    count, image, token, direction, channel, item, n, decay_rate, B, C, step, step_x, kept, grad_s,
    need_A, need_BC, grad_h, grad_state, grad_step, grad_step_x, grad_A, grad_BC,
):  # fmt: skip
    """From the last token of the chunk back to the first, through the four states that ``states_kept`` kept.

    The gradient of h is at `grad_h` in `grad_state`. Adds to grad_step and grad_step_x, and to grad_BC, (items, length,
    d_state / 4, 16): sums over even and odd channels of four values of B, then of C.
    """
    d_state, length = decay_rate.shape[1], grad_BC.shape[1]
    r_0, r_1, r_2, r_3 = _four(decay_rate, channel * d_state + n * LANES)
    g_0, g_1, g_2, g_3 = _four(grad_state, grad_h + n * LANES)
    h_0, h_1, h_2, h_3 = _four(kept, (2 * count + 1) * STATES * LANES)
    for i in range(count - 1, -1, -1):
        t = token + direction * i
        B_at, C_at = image * B.image + t * B.token + n, image * C.image + t * C.token + n
        sx, grad = load(step_x, i * LANES), load(grad_s, i * LANES)
        g_0 = fma(grad, broadcast(C.data, C_at), g_0)
        g_1 = fma(grad, broadcast(C.data, C_at + 1), g_1)
        g_2 = fma(grad, broadcast(C.data, C_at + 2), g_2)
        g_3 = fma(grad, broadcast(C.data, C_at + 3), g_3)
        store(grad_step_x, i * LANES, _read_out(B, B_at, g_0, g_1, g_2, g_3, load(grad_step_x, i * LANES)))
        if need_BC:
            at = ((item * length + t) * d_state // STATES + n // STATES) * LANES
            of_t = lane_pair_sums(g_0 * sx, g_1 * sx, g_2 * sx, g_3 * sx, grad * h_0, grad * h_1, grad * h_2, grad * h_3)
            store(grad_BC, at, load(grad_BC, at) + of_t)
        at = 2 * i * STATES * LANES
        d_0, d_1, d_2, d_3 = _four(kept, at)
        h_0, h_1, h_2, h_3 = _four(kept, at + STATES * LANES)
        g_0, g_1, g_2, g_3 = g_0 * d_0, g_1 * d_1, g_2 * d_2, g_3 * d_3
        e_0, e_1, e_2, e_3 = g_0 * h_0, g_1 * h_1, g_2 * h_2, g_3 * h_3
        total = fma(e_0, r_0, load(grad_step, i * LANES))
        total = fma(e_1, r_1, total)
        total = fma(e_2, r_2, total)
        store(grad_step, i * LANES, fma(e_3, r_3, total))
        if need_A:
            s, of_A = load(step, i * LANES), grad_h + n * LANES
            _of_A(grad_A, of_A, e_0, s)
            _of_A(grad_A, of_A + LANES, e_1, s)
            _of_A(grad_A, of_A + 2 * LANES, e_2, s)
            _of_A(grad_A, of_A + 3 * LANES, e_3, s)
    _store_four(grad_state, grad_h + n * LANES, g_0, g_1, g_2, g_3)


@function
def sum_pairs(item, grad_BC):
    """What ``sweep`` left of an item -> per token the sums over all channels of B, then those of C, in half of the space."""
    length, fours = grad_BC.shape[1], grad_BC.shape[2]
    sums, row = empty(fours * LANES), grad_BC.reshape(-1)
    for at in range(item * length * fours * LANES, (item + 1) * length * fours * LANES, fours * LANES):
        for n in range(fours):
            store(sums, n * LANES, lanes_by_pairs(load(row, at + n * LANES)))
        for n in range(fours):
            for i in range(STATES):
                row[at + n * STATES + i] = sums[n * LANES + i]
                row[at + (fours + n) * STATES + i] = sums[n * LANES + STATES + i]


@kernel
def _backward(
    item, groups, chunk, grad_y, x, dt, decay_rate, B, C, D, z, dt_bias, initial_state, has_D, has_z, first, direction,
    need_A, need_BC, need_z, grad_state, grad_x, grad_dt, grad_A, grad_BC, grad_D, grad_z,
):  # fmt: skip
    """One image, one group of channel blocks. `grad_state`, the gradient of the last state, becomes that of the first."""
    length, blocks, d_state = grad_x.shape[1], decay_rate.shape[0], decay_rate.shape[1]
    image, group = item // groups, item % groups
    width = d_state * LANES
    chunks = (length + chunk - 1) // chunk
    step, step_x, sums = empty(chunk * LANES), empty(chunk * LANES), empty(chunk * LANES)
    grad_s, grad_step, grad_step_x = empty(chunk * LANES), empty(chunk * LANES), empty(chunk * LANES)
    starts = empty(chunks * width).reshape(chunks, width)  # the state before every chunk
    kept = empty((chunk + 1) * 2 * STATES * LANES)
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
            _chunk_grad_sums(count, image, token, direction, channel, grad_y, z, has_z, grad_s)
            clear(sums)
            clear(grad_step)
            clear(grad_step_x)
            for n in range(0, d_state, STATES):
                states_kept(
                    count, image, token, direction, channel, n, d_state, decay_rate, B, C, step, step_x, starts[c], kept, sums
                )
                sweep(
                    count, image, token, direction, channel, item, n, decay_rate, B, C, step, step_x, kept, grad_s,
                    need_A, need_BC, (image * blocks + block) * width, grad_state, grad_step, grad_step_x, grad_A, grad_BC,
                )  # fmt: skip
            for i in range(count):
                t = token + direction * i
                out = (image * length + t) * blocks * LANES + channel
                x_t = load(x.data, image * x.image + t * x.token + channel)
                of_step_x = load(grad_step_x, i * LANES)
                of_step = fma(of_step_x, x_t, load(grad_step, i * LANES) * splat(_LN_2))  # decay_rate is A * log2(e)
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
    if need_BC:
        sum_pairs(item, grad_BC)


def forward(inputs: Inputs, reverse: bool) -> tuple[Tensor, Tensor]:
    """y and last state of ``svp.ops.selective_scan``, in float32."""
    batch, length, d_inner = inputs.x.shape
    d_state = inputs.A.shape[1]
    blocks = math.ceil(d_inner / LANES)
    y = torch.empty(batch, length, blocks * LANES)
    last_state = torch.empty(batch, blocks, d_state + -d_state % STATES, LANES)
    groups = groups_per_image(batch, blocks)
    _forward(batch * groups, groups, *_kernel_inputs(inputs, reverse), y.numpy(), last_state.numpy())
    return y[..., :d_inner].to(inputs.x.dtype).contiguous(), from_blocks(last_state, d_inner, d_state)


def backward(grads: list[Tensor], inputs: Inputs, needed: list[bool], reverse: bool) -> list[Tensor]:
    """Gradients of the inputs that `needed` marks, in their order."""
    grad_y, grad_state = grads
    batch, length, d_inner = inputs.x.shape
    d_state = inputs.A.shape[1]
    blocks = math.ceil(d_inner / LANES)
    groups = groups_per_image(batch, blocks)
    need_A, need_BC, need_z = needed[2], needed[3] or needed[4], needed[6]
    states = d_state + -d_state % STATES

    def space(needed: bool, *shape: int) -> Tensor:
        return torch.zeros(shape if needed else (1,) * len(shape))

    inner = (batch, length, blocks * LANES)
    grad_x, grad_dt = torch.empty(inner), torch.empty(inner)
    grad_z = torch.empty(inner if need_z else (1, 1, 1))
    grad_A = space(need_A, batch, blocks, states, LANES)
    grad_BC = space(need_BC, batch * groups, length, states // STATES, LANES)
    grad_D = torch.empty(batch, blocks, LANES)
    grad_first_state = to_blocks(pad_states(grad_state))
    outputs = (grad_first_state, grad_x, grad_dt, grad_A, grad_BC, grad_D, grad_z)
    _backward(
        batch * groups,
        groups,
        min(length, KEPT_TOKENS),
        rows(pad_channels(grad_y)),
        *_kernel_inputs(inputs, reverse),
        need_A,
        need_BC,
        need_z,
        *(t.numpy() for t in outputs),
    )

    def of_B_or_C(kind: int) -> Tensor:
        return add_groups(grad_BC, batch)[..., kind * states :][..., :d_state]

    results = (
        lambda: grad_x[..., :d_inner],
        lambda: grad_dt[..., :d_inner],
        lambda: from_blocks(grad_A.sum(0, keepdim=True), d_inner, d_state)[0],
        lambda: of_B_or_C(0),
        lambda: of_B_or_C(1),
        lambda: grad_D.sum(0).view(-1)[:d_inner],
        lambda: grad_z[..., :d_inner],
        lambda: grad_dt.sum((0, 1))[:d_inner],
        lambda: from_blocks(grad_first_state, d_inner, d_state).sum_to_size(cast(Tensor, inputs.initial_state).shape),
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
    decay_rate = to_blocks(pad_states(A.detach().float()[None] * float(LOG2_E)))[0]
    x_rows = rows(pad_channels(x))
    return (
        x_rows,
        rows(pad_channels(dt)),
        decay_rate.numpy(),
        rows(pad_states(B)),
        rows(pad_states(C)),
        flat(pad_channels(zeros if D is None else D)),
        x_rows if z is None else rows(pad_channels(z)),
        flat(pad_channels(zeros if dt_bias is None else dt_bias)),
        to_blocks(pad_states(A[None, :, :][:0] if initial_state is None else initial_state)).numpy(),
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


def from_blocks(t: Tensor, d_inner: int, d_state: int) -> Tensor:
    """(n, blocks, d_state or more, 16) -> (n, d_inner, d_state)"""
    return t.transpose(2, 3).flatten(1, 2)[:, :d_inner, :d_state].contiguous()


def pad_states(t: Tensor) -> Tensor:
    """Zeros behind the last state up to a multiple of four; they change no sum over states that is finite."""
    missing = -t.shape[-1] % STATES
    return F.pad(t.detach(), (0, missing)) if missing else t.detach()


def add_groups(partial: Tensor, batch: int) -> Tensor:
    """What ``sum_pairs`` left -> the gradients of B and of C, (batch, length, 2 states)."""
    items, length, fours, _ = partial.shape
    sums = partial.view(items, length, fours * LANES)[..., : 2 * fours * STATES]
    return sums if items == batch else sums.view(batch, items // batch, length, 2 * fours * STATES).sum(1)
