"""Compile the kernels of training before they are needed: ``python -m svp.ops.warm_up``.

Their machine code goes to the cache, where a process that trains finds it. The backward pass comes first: who trains compiles
the forward pass meanwhile.
"""

from __future__ import annotations

import torch

from svp.ops.backend import implementation
from svp.ops.rows import LANES

_WIDTH = LANES
_STATES = 16


def warm_up() -> None:
    """Run every fused Numba kernel of a Vim block once, in float32, backward and forward, on small random tensors."""
    scan = implementation("bidirectional_scan", "numba")
    shapes = ((_WIDTH, 4), (_WIDTH,), (1 + 2 * _STATES, _WIDTH), (_WIDTH, 1), (_WIDTH,), (_WIDTH, _STATES), (_WIDTH,))
    batch, length = 4, 64  # enough for two threads
    inputs = scan.Inputs(torch.zeros(batch, length, 2 * _WIDTH), [torch.zeros(shape) for shape in 2 * shapes])
    scan.backward([torch.zeros(batch, length, _WIDTH)], inputs, [True] + [False] * 2 * len(shapes))
    scan.forward(inputs)


if __name__ == "__main__":
    warm_up()
