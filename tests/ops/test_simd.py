"""What the vector type of the CPU kernels does to single values."""

from __future__ import annotations

import math

import pytest
import torch
from numba import njit

from svp.ops.rows import LANES
from svp.ops.simd import load, store


@njit
def copy_lanes(source, target):
    for at in range(0, source.size, LANES):
        store(target, at, load(source, at))


@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -2.5, 3.4e38, 1e-40, math.inf, -math.inf, math.nan])
def test_bfloat16_is_stored_as_pytorch_rounds_it(value: float) -> None:
    near = torch.full((LANES,), value)
    near = torch.stack([near, *(near * (1 + k * 2.0**-10) for k in range(-8, 9))])  # ties among them
    stored = torch.empty(near.shape, dtype=torch.bfloat16)
    copy_lanes(near.numpy(), stored.view(torch.int16).numpy())
    assert torch.equal(stored.isnan(), near.isnan())
    assert torch.equal(stored.nan_to_num(), near.bfloat16().nan_to_num())
    again = torch.empty_like(near)
    copy_lanes(stored.view(torch.int16).numpy(), again.numpy())
    assert torch.equal(again.nan_to_num(), stored.float().nan_to_num())


@pytest.mark.parametrize("bits", [0x7FFFFFFF, 0x7F800001, -1])
def test_every_nan_stays_one_in_bfloat16(bits: int) -> None:
    values = torch.full((LANES,), bits, dtype=torch.int32).view(torch.float32)
    stored = torch.empty(LANES, dtype=torch.bfloat16)
    copy_lanes(values.numpy(), stored.view(torch.int16).numpy())
    assert stored.isnan().all()
