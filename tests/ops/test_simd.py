"""What the vector type of the CPU kernels does to single values."""

from __future__ import annotations

import math
import platform
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import pytest
import torch
from numba import njit
from torch import Tensor

from svp.ops import simd
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
    expected = near.bfloat16().nan_to_num()
    if simd.HAS_BF16:  # the processor's instruction makes subnormal numbers zero
        expected = torch.where(near.abs() < 2.0**-126, torch.zeros_like(expected), expected)
    assert torch.equal(stored.nan_to_num(), expected)
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


X86_64 = platform.machine() in ("x86_64", "AMD64")
AVX2 = X86_64 and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
CPUS = ["generic", pytest.param("x86-64-v3", marks=pytest.mark.skipif(not AVX2, reason="needs AVX2"))]


@pytest.mark.parametrize("cpu", CPUS)
def test_older_processors(cpu: str, tmp_path: Path) -> None:
    """The oldest x86-64, or the oldest ARM; AVX2, which most have that lack AVX-512."""
    printed_by(SCAN, NUMBA_CPU_NAME=cpu, NUMBA_CPU_FEATURES="", NUMBA_CACHE_DIR=str(tmp_path))


TRAINING = """
import torch
from svp.models import create_model
from svp.tuners import tune
from svp.ops import use_backend

torch.manual_seed(0)
model = create_model("vim_nano_patch4_32", num_classes=5)
tune(model, "svp")
with torch.no_grad():
    for p in model.parameters():
        p.add_(0.02 * torch.randn_like(p))

def gradients(images, backend):
    model.zero_grad()
    with use_backend(backend):
        torch.nn.functional.cross_entropy(model(images), torch.tensor([1, 4])).backward()
    return torch.cat([p.grad.flatten().double() for p in model.parameters() if p.grad is not None])

images = torch.randn(2, 3, 32, 32)
ours = gradients(images, "numba")
model.double()
truth = gradients(images.double(), "reference")
assert (ours - truth).abs().max() < 1e-4 * truth.abs().max(), (ours - truth).abs().max() / truth.abs().max()
"""


@pytest.mark.exhaustive
@pytest.mark.parametrize("cpu", CPUS)
def test_a_step_on_older_processors(cpu: str, tmp_path: Path) -> None:
    printed_by(TRAINING, NUMBA_CPU_NAME=cpu, NUMBA_CPU_FEATURES="", NUMBA_CACHE_DIR=str(tmp_path))


ARM = """
import re
import llvmlite.binding as llvm
import numpy as np
from svp.bench.state_kernels import TOKENS, forward_states
forward_states(1, 1, np.zeros(99 * TOKENS, np.float32), np.zeros(16, np.float32))
llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()
machine = llvm.Target.from_triple("aarch64-unknown-linux-gnu").create_target_machine(cpu="neoverse-n1", opt=3)
(text,) = forward_states.body.inspect_llvm().values()
text = re.sub("target triple = .*", 'target triple = "aarch64-unknown-linux-gnu"', text)
text = re.sub("target datalayout = .*", f'target datalayout = "{machine.target_data}"', text)
code = machine.emit_assembly(llvm.parse_assembly(text))
print(len(re.findall(r"\\tfmla\\tv", code)), len(re.findall(r"\\tblr?\\t", code)), len(re.findall(r"\\tfmadd\\t", code)))
"""


def test_states_on_arm(tmp_path: Path) -> None:
    """Four states of sixteen channels: per state and four channels seven fused products, no function call, nothing scalar."""
    try:
        llvm.initialize_all_targets()
        llvm.Target.from_triple("aarch64-unknown-linux-gnu")
    except RuntimeError:
        pytest.skip("this LLVM has no ARM")
    vectors, calls, scalars = printed_by(ARM, NUMBA_CPU_NAME="generic", NUMBA_CACHE_DIR=str(tmp_path)).split()
    assert (int(vectors), calls, scalars) == (7 * 4 * 4, "0", "0")
