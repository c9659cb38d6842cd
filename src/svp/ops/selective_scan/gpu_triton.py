"""The scan on a GPU by Triton: storage in any float dtype of 32 bits or fewer, arithmetic and state in float32.

A program owns one image and a block of channels. It walks through time with the states, (states, channels), in registers;
``reverse`` walks the other way. The backward runs in two kernels: the forward one again, which writes down the state before
every fourth token (float32, d_state / 4 times the size of `x`, for as long as the call lasts), and one that goes through these
short chunks from the last to the first: it computes the four states and decays of a chunk again, keeps them in registers, and
sweeps back; see ``any_device`` for the equations.

Sums over channels (gradients of B and C) are kept per block of channels, sums over time (A, D, dt_bias) per image, and
PyTorch adds them up: unlike atomic additions this gives the same bits in every run. A gradient that is not needed is a None
argument, for which Triton compiles nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
import triton
import triton.language as tl
from torch import Tensor

from svp.ops.selective_scan.reference import Inputs
from svp.ops.triton_math import (
    LN_2,
    LOG2_E,
    launch,
    load_row,
    rows,
    sigmoid,
    silu_slope,
    softplus,
    store_row,
)

_CHUNK = 4  # tokens between two saved states
_TILE = 512  # states of a program of one warp: 16 registers of every thread


@triton.jit
def _block(d_inner, CHANNELS: tl.constexpr):
    """This program's number and image (int64), and its channels."""
    item, blocks = tl.program_id(0), tl.cdiv(d_inner, CHANNELS)
    return item.to(tl.int64), (item // blocks).to(tl.int64), item % blocks * CHANNELS + tl.arange(0, CHANNELS)


@triton.jit
def _token(t, length, REVERSE: tl.constexpr):
    """Where the recurrence is after `t` steps."""
    t = tl.cast(t, tl.int64)
    return length - 1 - t if REVERSE else t


@triton.jit
def _decay_rate(A, channels, states, d_inner, D_STATE: tl.constexpr):
    """A * log2(e), (states, channels), so that exp(step * A) = exp2(step * decay_rate)."""
    mask = (states < D_STATE)[:, None] & (channels < d_inner)[None, :]
    return tl.load(A + channels[None, :] * D_STATE + states[:, None], mask=mask, other=0.0).to(tl.float32) * LOG2_E


@triton.jit
def _real_states(h, states, D_STATE: tl.constexpr):
    """Zeros in the states that only pad to a power of two: there, an infinite input would become NaN."""
    if h.shape[0] != D_STATE:
        h = tl.where((states < D_STATE)[:, None], h, 0.0)
    return h


@triton.jit
def _start(starts, item, chunk, chunks, STATES: tl.constexpr, CHANNELS: tl.constexpr):
    """Where the state before a chunk is kept. States are adjacent as in A, so that both are held by the same threads."""
    at = (item * chunks + chunk) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    return starts + at * STATES + tl.arange(0, STATES)[:, None]


@triton.jit
def _output_rows(C, z, other, need: tl.constexpr, image, token, channels, real, states, real_state):
    """What a token needs to become an output; zeros for what is absent or not needed."""
    C_t, gate, other_t = states * 0.0, channels * 0.0, channels * 0.0
    if need:
        C_t = load_row(C, image, token, states, real_state)
        if z is not None:
            gate = load_row(z, image, token, channels, real)
        if other is not None:
            other_t = load_row(other, image, token, channels, real)
    return C_t, gate, other_t


@triton.jit
def scan_kernel(
    x, dt, A, B, C, D, z, dt_bias, initial, other, y, last_state, starts, scale, length, d_inner,
    REVERSE: tl.constexpr, D_STATE: tl.constexpr, STATES: tl.constexpr, CHANNELS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """y = (C . h + D * x + other) * scale * SiLU(z), the last state, and the state before every chunk; each if not None."""
    item, image, channels = _block(d_inner, CHANNELS)
    states = tl.arange(0, STATES)
    real = channels < d_inner
    decay_rate = _decay_rate(A, channels, states, d_inner, D_STATE)
    bias = tl.zeros([CHANNELS], tl.float32)
    if dt_bias is not None:
        bias = tl.load(dt_bias + channels, mask=real, other=0.0).to(tl.float32)
    if D is not None:
        skip = tl.load(D + channels, mask=real, other=0.0).to(tl.float32)
    real_state = states < D_STATE
    need_C = y is not None
    if initial is None:
        h = tl.zeros([STATES, CHANNELS], tl.float32)
    else:
        at = image * initial.image + channels[None, :] * D_STATE + states[:, None]
        h = tl.load(initial.data + at, mask=real[None, :] & real_state[:, None], other=0.0).to(tl.float32)
    first = _token(0, length, REVERSE)
    next_x, next_raw = load_row(x, image, first, channels, real), load_row(dt, image, first, channels, real)
    next_B = load_row(B, image, first, states, real_state)
    next_C, next_gate, next_other = _output_rows(C, z, other, need_C, image, first, channels, real, states, real_state)
    for t in range(length):
        x_t, raw, B_t, C_t, gate, other_t = next_x, next_raw, next_B, next_C, next_gate, next_other
        # rows travel while the token before them is worked on; the last token is fetched twice
        ahead = _token(tl.minimum(t + 1, length - 1), length, REVERSE)
        next_x, next_raw = load_row(x, image, ahead, channels, real), load_row(dt, image, ahead, channels, real)
        next_B = load_row(B, image, ahead, states, real_state)
        next_C, next_gate, next_other = _output_rows(C, z, other, need_C, image, ahead, channels, real, states, real_state)

        if starts is not None:
            if t % CHUNK == 0:
                tl.store(_start(starts, item, t // CHUNK, tl.cdiv(length, CHUNK), STATES, CHANNELS), h)
        step = softplus(raw + bias)
        h = tl.exp2(step[None, :] * decay_rate) * h + B_t[:, None] * (step * x_t)[None, :]
        h = _real_states(h, states, D_STATE)
        if y is not None:
            value = tl.sum(h * C_t[:, None], axis=0)
            if D is not None:
                value += skip * x_t
            if other is not None:
                value += other_t
            if z is not None:
                value *= scale * (gate * sigmoid(gate))
            store_row(y, image, _token(t, length, REVERSE), channels, value, real)
    if last_state is not None:
        at = (image * d_inner + channels[None, :]) * D_STATE + states[:, None]
        tl.store(last_state + at, h, mask=real[None, :] & (states < D_STATE)[:, None])


@triton.jit
def scan_backward_kernel(
    grad_y, grad_state, x, dt, A, B, C, D, z, dt_bias, initial, other, starts,
    grad_x, grad_dt, grad_A, grad_B, grad_C, grad_D, grad_z, grad_bias, grad_initial, y, scale, length, d_inner,
    REVERSE: tl.constexpr, D_STATE: tl.constexpr, STATES: tl.constexpr, CHANNELS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Gradients of ``scan_kernel``, each if not None; `y` is C . h + D * x + other, before the gate."""
    item, image, channels = _block(d_inner, CHANNELS)
    states = tl.arange(0, STATES)
    real = channels < d_inner
    decay_rate = _decay_rate(A, channels, states, d_inner, D_STATE)
    bias = tl.zeros([CHANNELS], tl.float32)
    if dt_bias is not None:
        bias = tl.load(dt_bias + channels, mask=real, other=0.0).to(tl.float32)
    if D is not None:
        skip = tl.load(D + channels, mask=real, other=0.0).to(tl.float32)
    at_state = (image * d_inner + channels[None, :]) * D_STATE + states[:, None]
    is_state = real[None, :] & (states < D_STATE)[:, None]
    if grad_state is None:
        g = tl.zeros([STATES, CHANNELS], tl.float32)
    else:
        g = tl.load(grad_state + at_state, mask=is_state, other=0.0).to(tl.float32)
    of_A = tl.zeros([STATES, CHANNELS], tl.float32)
    of_D, of_bias = tl.zeros([CHANNELS], tl.float32), tl.zeros([CHANNELS], tl.float32)
    chunks = tl.cdiv(length, CHUNK)
    for c in range(chunks):
        chunk = chunks - 1 - c
        first = _token(chunk * CHUNK, length, REVERSE)
        h = tl.load(_start(starts, item, chunk, chunks, STATES, CHANNELS))
        kept_h, kept_decay, kept_raw, kept_x, kept_B = (h,), (), (), (), ()
        for k in tl.static_range(CHUNK):
            t = chunk * CHUNK + k
            token = first - k if REVERSE else first + k
            # behind the last token: a step of zero length, through which states and gradients pass unchanged
            here = channels < tl.where(t < length, d_inner, 0)
            here_state = states < tl.where(t < length, D_STATE, 0)
            x_t = load_row(x, image, token, channels, here)
            raw = load_row(dt, image, token, channels, here) + bias
            step = tl.where(here, softplus(raw), 0.0)
            B_t = load_row(B, image, token, states, here_state)
            decay = tl.where(here[None, :], tl.exp2(step[None, :] * decay_rate), 1.0)
            h = _real_states(decay * h + B_t[:, None] * (step * x_t)[None, :], states, D_STATE)
            kept_h, kept_decay, kept_raw = kept_h + (h,), kept_decay + (decay,), kept_raw + (raw,)  # type: ignore[assignment]
            kept_x, kept_B = kept_x + (x_t,), kept_B + (B_t,)  # type: ignore[assignment]
        for k in tl.static_range(CHUNK - 1, -1, -1):
            t = chunk * CHUNK + k
            token = first - k if REVERSE else first + k
            here = channels < tl.where(t < length, d_inner, 0)
            here_state = states < tl.where(t < length, D_STATE, 0)
            raw, x_t, B_t = kept_raw[k], kept_x[k], kept_B[k]
            step = tl.where(here, softplus(raw), 0.0)
            C_t = load_row(C, image, token, states, here_state)
            grad = load_row(grad_y, image, token, channels, here)
            grad_s = grad
            if z is not None:
                gate = load_row(z, image, token, channels, here)
                grad_s = grad * (scale * (gate * sigmoid(gate)))
            if (y is not None) or (grad_z is not None):
                value = tl.sum(kept_h[k + 1] * C_t[:, None], axis=0)
                if D is not None:
                    value += skip * x_t
                if other is not None:
                    value += load_row(other, image, token, channels, here)
                if y is not None:
                    store_row(y, image, token, channels, value, here)
                if grad_z is not None:
                    store_row(grad_z, image, token, channels, grad * value * (scale * silu_slope(gate)), here)
            g += C_t[:, None] * grad_s[None, :]
            g = _real_states(g, states, D_STATE)
            if grad_B is not None:
                of_B = tl.sum(g * (step * x_t)[None, :], axis=1)
                tl.store(grad_B + (item * length + token) * D_STATE + states, of_B, mask=here_state)
            if grad_C is not None:
                of_C = tl.sum(kept_h[k + 1] * grad_s[None, :], axis=1)
                tl.store(grad_C + (item * length + token) * D_STATE + states, of_C, mask=here_state)
            of_step_x = tl.sum(g * B_t[:, None], axis=0)
            g *= kept_decay[k]
            if grad_x is not None:
                of_x = of_step_x * step
                if D is not None:
                    of_x += skip * grad_s
                store_row(grad_x, image, token, channels, of_x, here)
            if grad_D is not None:
                of_D += grad_s * x_t
            e = g * kept_h[k]
            if grad_A is not None:
                of_A += e * step[None, :]
            if (grad_dt is not None) or (grad_bias is not None):
                of_raw = (tl.sum(e * decay_rate, axis=0) * LN_2 + of_step_x * x_t) * sigmoid(raw)
                if grad_dt is not None:
                    store_row(grad_dt, image, token, channels, of_raw, here)
                if grad_bias is not None:
                    of_bias += tl.where(here, of_raw, 0.0)
    if grad_A is not None:
        tl.store(grad_A + at_state, of_A, mask=is_state)
    if grad_initial is not None:
        tl.store(grad_initial + at_state, g, mask=is_state)
    if grad_D is not None:
        tl.store(grad_D + image * d_inner + channels, of_D, mask=real)
    if grad_bias is not None:
        tl.store(grad_bias + image * d_inner + channels, of_bias, mask=real)


# from tensors to kernels ------------------------------------------------------------------------------------------------


def forward(inputs: Inputs, reverse: bool) -> tuple[Tensor, Tensor]:
    """y and last state of ``svp.ops.selective_scan``; the state in float32."""
    x = inputs.x
    y, last_state = x.new_empty(x.shape), x.new_empty(x.shape[0], *inputs.A.shape, dtype=torch.float32)
    Scan(inputs, reverse).run(y, last_state)
    return y, last_state


def backward(grads: list[Tensor], inputs: Inputs, needed: list[bool], reverse: bool) -> list[Tensor]:
    """Gradients of the inputs that `needed` marks, in their order."""
    grad_y, grad_state = grads
    return [grad for grad in Scan(inputs, reverse).run_backward(grad_y, grad_state, needed) if grad is not None]


class _State(NamedTuple):
    """Initial states, (batch, d_inner, d_state) in memory, and how far those of images are apart: 0 if all share one."""

    data: Tensor
    image: int


class Scan:
    """One scan over the tensors, as ``selective_scan`` has them, and the launches of its kernels.

    Args:
        given: The tensors of the scan.
        reverse: From the last token to the first.
        other: Added to the output before the gate, (batch, length, d_inner).
        scale: Factor of the gate.
    """

    def __init__(self, given: Inputs, reverse: bool, other: Tensor | None = None, scale: float = 1.0) -> None:
        x, dt, A, B, C, D, z, dt_bias, initial_state = given
        self.given, self.reverse, self.scale = given, reverse, scale
        self.batch, self.length, self.d_inner = x.shape
        self.d_state = A.shape[1]
        self.states = triton.next_power_of_2(self.d_state)
        self.channels = max(1, _TILE // self.states)
        self.blocks = triton.cdiv(self.d_inner, self.channels)
        self.inputs = (
            rows(x),
            rows(dt),
            A.detach().contiguous(),
            rows(B),
            rows(C),
            None if D is None else D.detach().contiguous(),
            rows(z),
            None if dt_bias is None else dt_bias.detach().contiguous(),
            None
            if initial_state is None
            else _State(initial_state.detach().contiguous(), A.numel() * (len(initial_state) > 1)),
            rows(other),
        )

    def run(self, y: Tensor | None = None, last_state: Tensor | None = None, starts: Tensor | None = None) -> None:
        """Write what is not None: the output, the last state, the state before every chunk."""
        self._launch(scan_kernel, *self.inputs, rows(y), last_state, starts)

    def run_backward(
        self,
        grad_y: Tensor,
        grad_state: Tensor | None,
        needed: list[bool],
        ungated: Tensor | None = None,
        grad_z: Tensor | None = None,
    ) -> list[Tensor | None]:
        """Gradients of the tensors, None where not needed.

        The output before the gate is written to `ungated`, if given, and the gradient of z to `grad_z`, if given and needed.
        """
        batch, length, d_inner, d_state = self.batch, self.length, self.d_inner, self.d_state
        per_token, per_block, per_image = (batch, length, d_inner), (batch, self.blocks, length, d_state), (batch, d_inner)
        per_state = (*per_image, d_state)
        shapes = (per_token, per_token, per_state, per_block, per_block, per_image, per_token, per_image, per_state)
        given = (*[None] * 6, grad_z, None, None)
        grads: list[Tensor | None] = []
        for tensor, shape, need, place in zip(self.given, shapes, needed, given, strict=True):
            if tensor is None or not need:
                grads.append(None)
            elif place is not None:
                grads.append(place)
            else:  # what is summed afterwards is kept in float32
                grads.append(tensor.new_empty(shape, dtype=tensor.dtype if shape == per_token else torch.float32))
        grad_x, grad_dt, grad_A, grad_B, grad_C, grad_D, grad_z, grad_bias, grad_initial = grads
        chunks = triton.cdiv(length, _CHUNK)
        starts = grad_y.new_empty(batch * self.blocks * chunks * self.states * self.channels, dtype=torch.float32)
        self.run(starts=starts)
        self._launch(
            scan_backward_kernel,
            rows(grad_y),
            None if grad_state is None else grad_state.contiguous(),
            *self.inputs,
            starts,
            *(rows(grad_x), rows(grad_dt), grad_A, grad_B, grad_C, grad_D, rows(grad_z), grad_bias, grad_initial),
            rows(ungated),
        )
        results: list[Tensor | None] = []
        for tensor, shape, grad in zip(self.given, shapes, grads, strict=True):
            if grad is not None and tensor is self.given.initial_state:
                grad = grad.sum_to_size(cast(Tensor, tensor).shape)
            elif grad is not None and shape != per_token:
                grad = grad.sum(1 if shape == per_block else 0)
            results.append(None if grad is None else grad.to(cast(Tensor, tensor).dtype))
        return results

    def _launch(self, kernel: Any, *arguments: Any) -> None:
        launch(
            kernel,
            self.batch * self.blocks,
            self.given.x,
            *arguments,
            self.scale,
            self.length,
            self.d_inner,
            REVERSE=self.reverse,
            D_STATE=self.d_state,
            STATES=self.states,
            CHANNELS=self.channels,
            CHUNK=_CHUNK,
            num_warps=1,
        )
