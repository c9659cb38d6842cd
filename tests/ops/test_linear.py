"""The linear map on either library: numbers, gradients, FLOPs, and when which is taken."""

from __future__ import annotations

import importlib
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from svp.models.blocks import Conv2d, PatchEmbed
from svp.ops import conv2d, linear, use_backend
from svp.tuners.ssp import SSP, Gathering
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


def test_a_sum_over_no_rows_is_zero() -> None:
    assert torch.equal(ops.product(torch.randn(3, 0), torch.randn(0, 4)), torch.zeros(3, 4))


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


@pytest.mark.usefixtures("without_bf16")
@pytest.mark.parametrize("tokens", [40, 130])  # one tile, and three
@pytest.mark.parametrize("weight_dtype", [torch.bfloat16, torch.float32], ids=str)
def test_upcast_gradients_of_a_map(weight_dtype: torch.dtype, tokens: int) -> None:
    x, weight = torch.randn(tokens, 160).to(weight_dtype), torch.randn(192, 160).to(weight_dtype)
    grad = torch.randn(tokens, 192).bfloat16()
    exact = (grad.double() @ weight.double(), grad.double().T @ x.double(), grad.double().sum(0))
    error = 1e-6 if weight_dtype == torch.float32 else 2**-8  # operands in float32 are not rounded to the gradient's dtype
    found = ops.linear_gradients(grad, x, weight, (True, True, True))
    for ours, true, allowed in zip(found, exact, (error, error, 1e-6), strict=True):
        assert (ours - true).norm() < allowed * true.norm()
    assert [t.dtype for t in found[:2]] == [weight_dtype] * 2


class _Convolutions(TorchFunctionMode):
    """Dtypes of the images of every convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: list[torch.dtype] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.conv2d:
            self.dtypes.append(args[0].dtype)
        return func(*args, **(kwargs or {}))


@pytest.mark.usefixtures("without_bf16")
def test_patches_are_embedded_in_float32_without_products_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    embed = PatchEmbed(12, 4, 4, 3, 16)
    images = torch.randn(2, 3, 12, 12)
    exact = embed(images)
    with _Convolutions() as seen, torch.autocast("cpu", torch.bfloat16):
        under_autocast = embed(images)
    assert torch.equal(under_autocast, exact.bfloat16())
    embed.bfloat16()
    with seen:
        rounded = embed(images.bfloat16())
    assert rounded.dtype == torch.bfloat16
    assert seen.dtypes == [torch.float32] * 2
    rounded.float().sum().backward()
    assert embed.proj.weight.grad is not None
    expected = F.unfold(images.bfloat16().float(), 4, stride=4).sum((0, 2)).view(1, 3, 4, 4)
    assert (embed.proj.weight.grad - expected).norm() < 2**-7 * expected.norm() * 16**0.5
    monkeypatch.setattr(ops, "has_bf16_products", lambda: True)
    with seen:
        native = embed(images.bfloat16())
    assert seen.dtypes[2:] == [torch.bfloat16]
    assert (native - rounded).norm() < 2**-7 * rounded.norm()


def test_convolution_equals_float64() -> None:
    x, weight, bias = torch.randn(2, 3, 9, 10), torch.randn(4, 3, 2, 3), torch.randn(4)
    exact = F.conv2d(x.double(), weight.double(), bias.double(), (2, 3))
    assert (conv2d(x, weight, bias, (2, 3)) - exact).abs().max() < 1e-5


@pytest.mark.usefixtures("without_bf16")
def test_depthwise_convolution_without_products_in_bfloat16() -> None:
    conv = Conv2d(6, 6, 3, padding=1, groups=6).bfloat16()
    x = torch.randn(2, 6, 5, 4).bfloat16()
    exact = F.conv2d(x.double(), conv.weight.double(), cast(torch.Tensor, conv.bias).double(), padding=1, groups=6)
    with _Convolutions() as seen:
        y = conv(x)
        Gathering(8, SSP(hidden_dim=4), x)(torch.randn(1, 9, 8).bfloat16(), (3, 3))
    assert seen.dtypes == [torch.float32] * 2
    assert y.dtype == torch.bfloat16
    assert y.shape == exact.shape
    assert (y - exact).norm() < 2**-8 * exact.norm()


AVX2 = """
import torch
from llvmlite.binding import get_host_cpu_name
from svp.ops import conv2d
from svp.ops.linear import _mkl_has_slow_code
x, weight = torch.randn(1, 3, 32, 32).bfloat16(), torch.randn(8, 3, 16, 16).bfloat16()
with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
    conv2d(x, weight, None, (16, 16))
names = {event.key for event in profile.key_averages()}
print("aten::_slow_conv2d_forward" in names, get_host_cpu_name().startswith("znver") == _mkl_has_slow_code())
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="needs AVX2")
def test_with_avx2_alone(library: str) -> None:
    """No convolution takes PyTorch's own slow code, and the library for float32 depends on who made the processor."""
    if library != "as here" or not torch.backends.mkldnn.is_available() or not torch.backends.mkl.is_available():
        pytest.skip("one case of this machine, where PyTorch has both libraries")
    told = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    ran = subprocess.run([sys.executable, "-c", AVX2], env=os.environ | told, capture_output=True, text=True, check=False)
    assert ran.stdout.split() == ["False", "True"], ran.stderr


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
