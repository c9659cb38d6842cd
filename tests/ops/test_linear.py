"""The linear map on either library: numbers, gradients, FLOPs, and when which is taken."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from svp.ops import linear, use_backend
from tests.processes import printed_by

SHAPES = {"in_proj": ((3, 65), 128, 512), "x_proj": ((7, 37), 256, 40), "odd": ((1001,), 131, 33)}

ops: Any = importlib.import_module("svp.ops.linear")  # the package has the function under this name


@pytest.fixture(autouse=True, params=["as here", "oneDNN"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name: str = request.param
    if name == "oneDNN":
        if not torch.backends.mkldnn.is_available():
            pytest.skip("this PyTorch has no oneDNN")
        monkeypatch.setattr(ops, "_mkl_has_slow_code", lambda: True)
    return name


def run(dtype: torch.dtype, function: Any, rows: tuple[int, ...], inputs: int, outputs: int, bias: bool) -> Any:
    generator = torch.Generator().manual_seed(0)
    shapes = ((*rows, inputs), (outputs, inputs), *[(outputs,)] * bias)
    tensors = [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]
    y = function(*tensors)
    grad = torch.randn(y.shape, generator=generator).to(dtype)
    return (y, *torch.autograd.grad(y, tensors, grad))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_equals_float64(shape: tuple[tuple[int, ...], int, int], bias: bool) -> None:
    for ours, exact in zip(run(torch.float32, linear, *shape, bias), run(torch.float64, F.linear, *shape, bias), strict=True):
        assert (ours - exact).norm() < 1e-6 * exact.norm()


def test_takes_views(library: str) -> None:
    x, weight = torch.randn(1024, 96)[:, :64], torch.randn(64, 130).T
    exact = x.double() @ weight.double().T
    assert (linear(x, weight) - exact).norm() < 1e-6 * exact.norm()
    assert (ops.product(x, weight.T) - exact).norm() < 1e-6 * exact.norm()
    assert (ops.product(weight.T, weight) - weight.T.double() @ weight.double()).abs().max() < 1e-4


def test_onednn_is_called_for_many_products_alone(library: str) -> None:
    weight = torch.randn(128, 128, requires_grad=True)

    def names(x: torch.Tensor) -> set[str]:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            linear(x, weight)
        return {event.key for event in profile.key_averages()}

    called = "mkldnn::_linear_pointwise"
    assert called not in names(torch.randn(8, 128))
    with use_backend("any_device"):
        assert called not in names(torch.randn(512, 128))
    with torch.autocast("cpu", torch.bfloat16):
        assert called not in names(torch.randn(512, 128))
    if library == "oneDNN":
        assert called in names(torch.randn(512, 128))


def test_flops_are_counted() -> None:
    x, weight = torch.randn(512, 128, requires_grad=True), torch.randn(64, 128, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        linear(x, weight).sum().backward()
    assert counter.get_total_flops() == 3 * 2 * 512 * 128 * 64


def test_frozen_weight_keeps_no_input() -> None:
    kept: list[tuple[int, ...]] = []
    x, weight = torch.randn(512, 128, requires_grad=True), torch.randn(64, 128)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(tuple(t.shape)), lambda t: t):
        linear(x, weight)
    assert kept in ([(64, 128)], [(128, 64)])  # PyTorch's own keeps the transpose


@pytest.fixture
def without_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "has_bf16_products", lambda: False)
    monkeypatch.setattr(ops, "_TILE", 50)  # several of them, and one that is not full


@pytest.mark.usefixtures("without_bf16")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_upcast_products_are_rounded_once(shape: tuple[tuple[int, ...], int, int], bias: bool) -> None:
    for ours, exact in zip(run(torch.bfloat16, linear, *shape, bias), run_of_bf16(*shape, bias), strict=True):
        assert ours.dtype == torch.bfloat16
        assert (ours - exact).norm() < 2**-8 * exact.norm()
    a, b = torch.randn(70, 333).bfloat16(), torch.randn(333, 64).bfloat16()  # longer than a tile on either side
    assert (ops.product(a, b) - a.double() @ b.double()).norm() < 2**-8 * (a.double() @ b.double()).norm()


def run_of_bf16(rows: tuple[int, ...], inputs: int, outputs: int, bias: bool) -> Any:
    """The exact outcome of the same values, which are rounded to bfloat16."""

    def exactly(*tensors: torch.Tensor) -> torch.Tensor:
        return F.linear(*(t.double() for t in tensors))

    return run(torch.bfloat16, exactly, rows, inputs, outputs, bias)


@pytest.mark.usefixtures("without_bf16")
def test_upcast_products_under_autocast_keep_dtypes_and_gradients() -> None:
    x, weight = torch.randn(2000, 64, requires_grad=True), torch.randn(96, 64, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = linear(x, weight)
    assert y.dtype == torch.bfloat16
    assert (y - x.double() @ weight.double().T).norm() < 2**-8 * y.double().norm()
    of_x, of_weight = torch.autograd.grad(y.float().sum(), (x, weight))
    assert of_x.dtype == of_weight.dtype == torch.float32
    torch.testing.assert_close(of_x, weight.sum(0).expand_as(x), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(of_weight, x.sum(0).expand_as(weight), rtol=1e-5, atol=1e-2)


COUNT = """
import importlib, torch
from svp.ops import linear
x, weight = torch.randn(2000, 64).bfloat16(), torch.randn(96, 64).bfloat16().requires_grad_()
print(type(linear(x, weight).grad_fn).__name__, importlib.import_module("svp.ops.linear").has_bf16_products())
"""


def test_what_onednn_is_told_decides(library: str) -> None:
    if library == "as here":
        printed = printed_by(COUNT, ONEDNN_MAX_CPU_ISA="AVX512_CORE").split()
        assert printed == ["_UpcastLinearBackward", "False"]
    elif Path("/proc/cpuinfo").is_file() and "ONEDNN_MAX_CPU_ISA" not in os.environ:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        assert ops.has_bf16_products() == any(flag in flags for flag in ("avx512_bf16", "amx_bf16", " bf16"))
