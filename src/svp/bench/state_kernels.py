"""The instructions of the recurrence and nothing else: what a scan of so many states takes at least on this CPU.

Vectors of sixteen channels stay in registers, several states beside each other so that none waits for the one before; what is
loaded comes from the L1 cache. Per state and token a forward pass has exp2 (eight instructions with AVX-512) and four more,

    decay = exp2(step rate)     h = decay h + step_x B     y += C h

and a backward pass seven more behind these, which it computes once again,

    g += grad C     grad_step_x += g B     grad_B += g step_x     grad_C += grad h
    g = g decay     e = g h                grad_step += e rate

Importing this module imports Numba.
"""

from __future__ import annotations

import numpy as np

from svp.ops.compiling import inlined, kernel
from svp.ops.rows import LANES
from svp.ops.simd import broadcast, exp2, fma, load, splat, store

TOKENS = 64
FORWARD_STATES, BACKWARD_STATES = 4, 2  # beside each other
_ZERO = np.float32(0)


@inlined
def _updated(h, s, rate, sx, B):
    decay = exp2(s * rate)
    return decay, fma(decay, h, sx * B)


@kernel
def forward_states(item, rounds, data, out):
    """``rounds * TOKENS * FORWARD_STATES`` updates; `data` holds TOKENS vectors of steps, as many of step_x, then rates."""
    zero = splat(_ZERO)
    h_0, h_1, h_2, h_3, y = zero, zero, zero, zero, zero
    rates = 2 * TOKENS * LANES
    r_0, r_1 = load(data, rates), load(data, rates + LANES)
    r_2, r_3 = load(data, rates + 2 * LANES), load(data, rates + 3 * LANES)
    for _ in range(rounds):
        for i in range(TOKENS):
            s, sx = load(data, i * LANES), load(data, (TOKENS + i) * LANES)
            _, h_0 = _updated(h_0, s, r_0, sx, broadcast(data, i))
            _, h_1 = _updated(h_1, s, r_1, sx, broadcast(data, i + 1))
            _, h_2 = _updated(h_2, s, r_2, sx, broadcast(data, i + 2))
            _, h_3 = _updated(h_3, s, r_3, sx, broadcast(data, i + 3))
            y = fma(h_0, broadcast(data, i + 4), fma(h_1, broadcast(data, i + 5), y))
            y = fma(h_2, broadcast(data, i + 6), fma(h_3, broadcast(data, i + 7), y))
    store(out, item * LANES, y)


@inlined
def _swept(g, grad, C, B, sx, decay, h, rate, of_x, of_B, of_C, of_step):
    g = fma(grad, C, g)
    of_x, of_B, of_C = fma(g, B, of_x), fma(g, sx, of_B), fma(grad, h, of_C)
    g = g * decay
    return g, of_x, of_B, of_C, fma(g * h, rate, of_step)


@kernel
def backward_states(item, rounds, data, out):
    """``rounds * TOKENS * BACKWARD_STATES`` updates and their gradients; `data` as in ``forward_states``."""
    zero = splat(_ZERO)
    h_0, h_1, y, g_0, g_1, of_step, of_x = zero, zero, zero, zero, zero, zero, zero
    B_0, B_1, C_0, C_1 = zero, zero, zero, zero
    r_0, r_1 = load(data, 2 * TOKENS * LANES), load(data, (2 * TOKENS + 1) * LANES)
    for _ in range(rounds):
        for i in range(TOKENS):
            s, sx = load(data, i * LANES), load(data, (TOKENS + i) * LANES)
            decay_0, h_0 = _updated(h_0, s, r_0, sx, broadcast(data, i))
            decay_1, h_1 = _updated(h_1, s, r_1, sx, broadcast(data, i + 1))
            y = fma(h_0, broadcast(data, i + 4), fma(h_1, broadcast(data, i + 5), y))
            g_0, of_x, B_0, C_0, of_step = _swept(
                g_0, s, broadcast(data, i + 4), broadcast(data, i), sx, decay_0, h_0, r_0, of_x, B_0, C_0, of_step
            )
            g_1, of_x, B_1, C_1, of_step = _swept(
                g_1, s, broadcast(data, i + 5), broadcast(data, i + 1), sx, decay_1, h_1, r_1, of_x, B_1, C_1, of_step
            )
    store(out, item * LANES, y + of_x + of_step + B_0 + B_1 + C_0 + C_1 + g_0 + g_1)
