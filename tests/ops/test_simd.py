"""What the vector type of the CPU kernels does to single values."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from numba import njit
from torch import Tensor

from svp.ops.rows import LANES
from svp.ops.simd import exp2, exp2_by_avx512, exp2_by_bits, load, store
from tests.processes import printed_by

AVX512 = torch.backends.cpu.get_cpu_capability() == "AVX512"


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


def of_lanes(function: Any, x: Tensor) -> Tensor:
    @njit
    def apply(source, target):
        for at in range(0, source.size, LANES):
            store(target, at, function(load(source, at)))

    y = torch.empty_like(x)
    apply(x.numpy(), y.numpy())
    return y


@pytest.mark.parametrize(
    "function",
    [
        exp2_by_bits,
        pytest.param(exp2_by_avx512, marks=pytest.mark.skipif(not AVX512, reason="this processor has no AVX-512")),
    ],
)
def test_exp2(function: Any) -> None:
    x = torch.cat([torch.linspace(-125.9, 127.4, 16 * 4001), torch.linspace(-1, 1, 16 * 4001), torch.linspace(0, 1e-6, 16)])
    truth = torch.exp2(x.double())
    assert ((of_lanes(function, x) - truth).abs() / truth).max() < 1.7e-7  # the polynomial's 9e-8 and rounding
    limits = torch.tensor([-0.0, 0.0, -150, -1e4, -3e38, -math.inf, 128, 1e4, 3e38, math.inf, math.nan] + [0.0] * 5)
    expected = torch.tensor([1.0, 1.0, 0, 0, 0, 0, math.inf, math.inf, math.inf, math.inf, math.nan] + [1.0] * 5)
    assert torch.equal(of_lanes(function, limits).nan_to_num(nan=-1), expected.nan_to_num(nan=-1))


def test_the_shorter_form_is_used_where_it_can_be() -> None:
    assert exp2 is (exp2_by_avx512 if AVX512 else exp2_by_bits)


SCAN = """
import torch
from svp.ops import selective_scan
from svp.ops.simd import exp2, exp2_by_bits
assert exp2 is exp2_by_bits
torch.manual_seed(0)
x, dt, B, C = torch.randn(2, 9, 24), torch.randn(2, 9, 24), torch.randn(2, 9, 5), torch.randn(2, 9, 5)
A = -torch.rand(24, 5)
y = selective_scan(x, dt, A, B, C, backend="numba")
truth = selective_scan(*(t.double() for t in (x, dt, A, B, C)), backend="reference")
assert (y - truth).abs().max() / (1 + truth.abs().max()) < 5e-6
"""


def test_the_oldest_processor(tmp_path: Path) -> None:
    """Instructions of every x86-64, or of every ARM."""
    printed_by(SCAN, NUMBA_CPU_NAME="generic", NUMBA_CACHE_DIR=str(tmp_path))
