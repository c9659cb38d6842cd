"""Where the time of the fused Numba kernels goes: nanoseconds per token and block of sixteen channels, on one thread.

    python benchmarks/cpu_scan.py [--model vim_tiny]

The parts run on one image and one direction; the kernels on whole tensors, both directions, divided by two.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numba import njit

from svp.ops import Direction
from svp.ops.bidirectional_scan import cpu_numba as kernels
from svp.ops.bidirectional_scan.cpu_numba import STATES, _raw_steps, chunk_states, chunk_steps, states_kept, sweep
from svp.ops.bidirectional_scan.reference import Inputs
from svp.ops.rows import LANES, Rows, rows
from svp.ops.simd import fma, load, store
from svp.process import prepare

D_STATE, D_CONV = 16, 4
PEAK_CHAINS, PEAK_ROUNDS = 12, 200_000


@njit(nogil=True, boundscheck=False, error_model="numpy")
def _parts(part, blocks, count, x, p, B, C, weights, scratch, kept, of_BC):
    step, step_x, y, grad_y, grad_step, grad_step_x, h, grad_h = scratch
    d_state = weights.decay_rate.shape[1]
    for block in range(blocks):
        channel = block * LANES
        if part == 0:
            _raw_steps(count, 0, 0, 1, block, p, weights, step)
            chunk_steps(count, 0, 0, 1, 0, Rows(x, 0, LANES), step, step_x)
        elif part == 1:
            chunk_states(count, 0, 0, 1, channel, d_state, weights.decay_rate, B, C, step, step_x, h, y)
        else:
            for n in range(0, d_state, STATES):
                if part != 3:
                    states_kept(count, 0, 0, 1, channel, n, d_state, weights.decay_rate, B, C, step, step_x, h, kept, y)
                if part != 2:
                    sweep(
                        count, 0, 0, 1, channel, 0, n, weights.decay_rate, B, C, step, step_x, kept, grad_y,
                        False, True, 0, grad_h, grad_step, grad_step_x, h, of_BC,
                    )  # fmt: skip


@njit(nogil=True, boundscheck=False, error_model="numpy")
def _peak(x):
    """Twelve independent chains of multiplications and additions, in registers."""
    factor, term = load(x, 0), load(x, LANES)
    a, b, c, d, e, f = (term, term, term, term, term, term)
    g, h, i, j, k, m = (factor, factor, factor, factor, factor, factor)
    for _ in range(PEAK_ROUNDS):
        a, b, c = fma(a, factor, term), fma(b, factor, term), fma(c, factor, term)
        d, e, f = fma(d, factor, term), fma(e, factor, term), fma(f, factor, term)
        g, h, i = fma(g, factor, term), fma(h, factor, term), fma(i, factor, term)
        j, k, m = fma(j, factor, term), fma(k, factor, term), fma(m, factor, term)
    store(x, 2 * LANES, a + b + c + d + e + f + g + h + i + j + k + m)


def best_seconds(function: Callable[[], object], rounds: int = 40) -> float:
    """Shortest of some runs, in time of this thread, after one that compiles."""
    function()
    seconds = []
    for _ in range(rounds):
        start = time.thread_time()
        function()
        seconds.append(time.thread_time() - start)
    return min(seconds)


SHAPES = {"vim_small": (8, 197, 768, 24), "vim_tiny": (8, 197, 384, 12), "vim_nano": (32, 65, 192, 6)}
"""Batch, length, d_inner and dt_rank."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=SHAPES, default="vim_tiny")
    batch, length, d_inner, dt_rank = SHAPES[parser.parse_args().model]
    blocks = d_inner // LANES
    prepare()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    side = Direction(
        conv_weight=torch.randn(d_inner, D_CONV) * 0.3,
        conv_bias=torch.zeros(d_inner),
        x_proj=torch.randn(dt_rank + 2 * D_STATE, d_inner) * d_inner**-0.5,
        dt_proj=torch.randn(d_inner, dt_rank) * 0.05,
        dt_bias=torch.randn(d_inner) * 0.3 - 4,
        A=-torch.arange(1.0, D_STATE + 1).repeat(d_inner, 1),
        D=torch.ones(d_inner),
    )
    weights = kernels._kernel_weights(torch.empty(0, d_inner, D_STATE), *side[:7])

    def noise(size: int) -> np.ndarray:
        return (torch.rand(size) * 0.1).numpy()  # PyTorch's memory begins at a cache line, as the kernels' own does

    projected = rows(torch.randn(1, length, dt_rank + 2 * D_STATE))
    B, C = (Rows(projected.data[start:], projected.image, projected.token) for start in (dt_rank, dt_rank + D_STATE))
    scratch = tuple(noise(length * LANES) for _ in range(8))
    kept, of_BC = noise((length + 1) * 2 * STATES * LANES), torch.zeros(1, length, D_STATE // STATES, LANES).numpy()
    x = noise(max(3, length) * LANES)
    print(f"{'vector instructions':22s} {PEAK_CHAINS * PEAK_ROUNDS / best_seconds(partial(_peak, x)) / 1e9:6.2f} billion/s")
    for part, name in enumerate(("step sizes", "states", "states, kept", "sweep back", "both of these")):
        seconds = best_seconds(partial(_parts, part, blocks, length, x, projected, B, C, weights, scratch, kept, of_BC))
        print(f"{name:22s} {seconds / (length * blocks) * 1e9:6.1f} ns")

    whole = [*side[:7], *side[:7]]
    needed = [True] + [False] * len(whole)
    for dtype in (torch.float32, torch.bfloat16):
        xz, grad = torch.randn(batch, length, 2 * d_inner).to(dtype), torch.randn(batch, length, d_inner).to(dtype)
        works = {
            "forward": partial(kernels.forward, Inputs(xz, whole)),
            "backward": partial(kernels.backward, [grad], Inputs(xz, whole), needed),
        }
        for work, function in works.items():
            parts: dict[str, float] = {}
            seconds = best_seconds(partial(_timed, function, parts))
            each = ", ".join(
                f"{name.strip('_')} {part * _PER_NS / (batch * length * blocks):.1f}" for name, part in parts.items()
            )
            label = f"{work}, {str(dtype).removeprefix('torch.')}"
            print(
                f"{label:22s} {seconds * _PER_NS / (batch * length * blocks):6.1f} ns, {seconds * 1e3:.2f} ms in all: {each}"
            )


_PER_NS = 0.5e9  # both directions


def _timed(function: Callable[[], object], parts: dict[str, float]) -> None:
    """Call `function`; `parts` gets the shortest times of what it consists of."""
    names = ("conv", "project", "_scan", "_backward", "product", "conv_backward")
    originals = {name: getattr(kernels, name) for name in names}
    seconds: dict[str, float] = {}

    def timed(name: str, *arguments: Any) -> Any:
        start = time.thread_time()
        result = originals[name](*arguments)
        seconds[name] = seconds.get(name, 0.0) + time.thread_time() - start
        return result

    for name in names:
        setattr(kernels, name, partial(timed, name))
    try:
        function()
    finally:
        for name, original in originals.items():
            setattr(kernels, name, original)
    for name, value in seconds.items():
        parts[name] = min(value, parts.get(name, math.inf))


if __name__ == "__main__":
    main()
