"""Where the time of the fused Numba kernels goes: nanoseconds per token and block of sixteen channels, on one thread.

    python benchmarks/cpu_scan.py [--d-inner 768] [--batch 8]

The parts run on a chunk that stays in the cache; the kernels on whole tensors, both directions, divided by two.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numba import njit

from svp.ops import Direction
from svp.ops.bidirectional_scan import cpu_numba as kernels
from svp.ops.bidirectional_scan.cpu_numba import _raw_steps, chunk_states, chunk_states_kept, chunk_steps, chunk_sweep
from svp.ops.bidirectional_scan.reference import Inputs
from svp.ops.rows import LANES, Rows, rows
from svp.ops.simd import fma, load, store
from svp.process import prepare

LENGTH, CHUNK, D_STATE, DT_RANK, D_CONV = 197, 64, 16, 24, 4
PEAK_CHAINS, PEAK_ROUNDS = 12, 200_000


@njit(nogil=True, boundscheck=False, error_model="numpy")
def _parts(part, blocks, x, p, B, C, weights, scratch, states, decays, of_BC, products):
    step, step_x, y, grad_y, grad_step, grad_step_x, h, grad_h = scratch
    for block in range(blocks):
        if part == 0:
            _raw_steps(CHUNK, 0, 0, 1, block, p, weights, step)
            chunk_steps(CHUNK, 0, 0, 1, 0, Rows(x, 0, LANES), step, step_x)
        elif part == 1:
            chunk_states(CHUNK, 0, 0, 1, block * LANES, D_STATE, weights.decay_rate, B, C, step, step_x, h, y)
        elif part == 2:
            chunk_states_kept(
                CHUNK, 0, 0, 1, block * LANES, D_STATE, weights.decay_rate, B, C, step, step_x, h, states, decays, y
            )
        else:
            chunk_sweep(
                CHUNK, 0, 0, 1, block * LANES, 0, weights.decay_rate, B, C, step, step_x, states, decays, grad_y,
                False, True, 0, grad_h, grad_step, grad_step_x, h, of_BC[0], of_BC[1], products[0], products[1],
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


def best_seconds(function: Callable[[], object], rounds: int = 15) -> float:
    """Shortest of some runs, after one that compiles."""
    function()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--d-inner", type=int, default=768)
    parser.add_argument("--batch", type=int, default=8)
    arguments = parser.parse_args()
    d_inner, batch = arguments.d_inner, arguments.batch
    blocks = d_inner // LANES
    prepare()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    side = Direction(
        conv_weight=torch.randn(d_inner, D_CONV) * 0.3,
        conv_bias=torch.zeros(d_inner),
        x_proj=torch.randn(DT_RANK + 2 * D_STATE, d_inner) * d_inner**-0.5,
        dt_proj=torch.randn(d_inner, DT_RANK) * 0.05,
        dt_bias=torch.randn(d_inner) * 0.3 - 4,
        A=-torch.arange(1.0, D_STATE + 1).repeat(d_inner, 1),
        D=torch.ones(d_inner),
    )
    weights = kernels._kernel_weights(torch.empty(0, d_inner, D_STATE), *side[:7])

    def noise(size: int) -> np.ndarray:
        return (torch.rand(size) * 0.1).numpy()

    projected = rows(torch.randn(1, CHUNK, DT_RANK + 2 * D_STATE))
    B, C = (Rows(projected.data[start:], projected.image, projected.token) for start in (DT_RANK, DT_RANK + D_STATE))
    scratch = tuple(noise(CHUNK * LANES) for _ in range(8))
    states, decays = noise((CHUNK + 1) * D_STATE * LANES), noise(CHUNK * D_STATE * LANES)
    of_BC = tuple(np.zeros((1, CHUNK, D_STATE), np.float32) for _ in range(2))
    products = tuple(np.zeros(D_STATE * LANES, np.float32) for _ in range(2))
    x = noise(CHUNK * LANES)
    print(f"{'vector instructions':22s} {PEAK_CHAINS * PEAK_ROUNDS / best_seconds(partial(_peak, x)) / 1e9:6.2f} billion/s")
    for dtype in (torch.float32, torch.bfloat16):
        square = torch.randn(2048, 2048).to(dtype)
        seconds = best_seconds(partial(torch.mm, square, square))
        print(f"{'products, ' + str(dtype).removeprefix('torch.'):22s} {2 * 2048**3 / seconds / 1e9:6.0f} GFLOP/s")
    for part, name in enumerate(("step sizes", "states", "states, kept", "sweep back")):
        run = partial(_parts, part, blocks, x, projected, B, C, weights, scratch, states, decays, of_BC, products)
        seconds = best_seconds(run)
        print(f"{name:22s} {seconds / (CHUNK * blocks) * 1e9:6.1f} ns")

    whole = [*side[:7], *side[:7]]
    needed = [True] + [False] * len(whole)
    for dtype in (torch.float32, torch.bfloat16):
        xz, grad = torch.randn(batch, LENGTH, 2 * d_inner).to(dtype), torch.randn(batch, LENGTH, d_inner).to(dtype)
        works = {
            "forward": partial(kernels.forward, Inputs(xz, whole)),
            "backward": partial(kernels.backward, [grad], Inputs(xz, whole), needed),
        }
        for work, function in works.items():
            seconds = best_seconds(function)
            label = f"{work}, {str(dtype).removeprefix('torch.')}"
            print(f"{label:22s} {seconds / (2 * batch * LENGTH * blocks) * 1e9:6.1f} ns, {seconds * 1e3:.1f} ms in all")


if __name__ == "__main__":
    main()
