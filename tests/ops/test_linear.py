"""The linear map on either library: numbers, gradients, FLOPs, and when which is taken."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from svp.ops import linear, use_backend

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
