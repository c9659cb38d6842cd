"""Derivatives other than those of ``backward``: right, or an error; never silence."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

import svp
from svp.errors import InputError, UnavailableError
from svp.ops import LinearPrompt, Prompts, add_rms_norm, bidirectional_scan, causal_conv1d, linear, selective_scan, use_backend
from tests.ops.test_bidirectional_scan import case
from tests.ops.test_numba_conv import arguments as conv_arguments
from tests.ops.test_numba_scan import arguments as scan_arguments

linear_module: Any = importlib.import_module("svp.ops.linear")  # the package has the function under this name

Op = Callable[[Tensor], Tensor]


def conv() -> tuple[Op, Tensor]:
    x, weight, bias = conv_arguments(1, 4, 3).values()
    assert x is not None
    assert weight is not None
    return lambda x: causal_conv1d(x, weight, bias), x


def scan() -> tuple[Op, Tensor]:
    arguments: dict[str, Any] = scan_arguments(1, 4, 3, 2)
    x = arguments.pop("x")
    return lambda x: selective_scan(x, **arguments), x  # type: ignore[return-value]


def both_directions() -> tuple[Op, Tensor]:
    xz, forward, backward = case(batch=1, length=5, d_inner=16, states=1)
    return lambda xz: bidirectional_scan(xz, forward, backward), xz


def norm() -> tuple[Op, Tensor]:
    last = torch.randn(16, 16)
    return lambda x: add_rms_norm(x, x, torch.ones(16), prompts=Prompts([LinearPrompt(x, None, last, None)]))[1], torch.randn(
        1, 4, 16
    )


OPS = {"causal_conv1d": conv, "selective_scan": scan, "bidirectional_scan": both_directions, "add_rms_norm": norm}


@pytest.fixture(params=OPS.values(), ids=OPS)
def op_and_x(request: pytest.FixtureRequest) -> tuple[Op, Tensor]:
    torch.manual_seed(0)
    made: tuple[Op, Tensor] = request.param()
    return made


def tangent_of(op: Op, x: Tensor) -> Tensor:
    """The derivative along a vector of ones."""
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(op(forward_ad.make_dual(x, torch.ones_like(x)))).tangent
    assert tangent is not None
    return tangent


def test_forward_mode_is_that_of_the_reference(op_and_x: tuple[Op, Tensor]) -> None:
    op, x = op_and_x
    with use_backend("reference"):
        expected = tangent_of(op, x)
    assert expected.norm() > 0
    torch.testing.assert_close(tangent_of(op, x), expected)
    torch.testing.assert_close(torch.func.jvp(op, (x,), (torch.ones_like(x),))[1], expected)


def test_gradients_per_sample(op_and_x: tuple[Op, Tensor]) -> None:
    op, x = op_and_x
    samples = torch.stack([x, 2 * x])
    found = torch.func.vmap(torch.func.grad(lambda x: op(x).square().sum()))(samples)
    for sample, grad in zip(samples, found, strict=True):
        sample.requires_grad_()
        torch.testing.assert_close(grad, torch.autograd.grad(op(sample).square().sum(), sample)[0], rtol=1e-4, atol=1e-5)


def test_named_kernels_refuse_transforms(op_and_x: tuple[Op, Tensor]) -> None:
    op, x = op_and_x
    with (
        use_backend("numba"),
        pytest.raises(InputError, match="backend 'numba' runs neither inside torch"),
    ):
        torch.func.jvp(op, (x,), (torch.ones_like(x),))


@pytest.mark.parametrize(
    "differentiate",
    [
        lambda first, x: first.square().sum().backward(),
        lambda first, x: torch.autograd.grad(first.sum(), x, allow_unused=True),
    ],
    ids=["backward", "grad"],
)
def test_second_derivatives_of_kernels_are_an_error(op_and_x: tuple[Op, Tensor], differentiate: Any) -> None:
    op, x = op_and_x
    x.requires_grad_()
    with use_backend("numba"):
        (first,) = torch.autograd.grad(op(x).square().sum(), x, create_graph=True)
        (once,) = torch.autograd.grad(op(x).square().sum(), x)
    torch.testing.assert_close(first, once, rtol=0, atol=0)
    with pytest.raises(UnavailableError, match=r"no second derivative; .*use_backend\('reference'\)"):
        differentiate(first, x)


def test_second_derivatives_of_any_device_are_those_of_the_reference() -> None:
    op, x = scan()
    x.requires_grad_()
    seconds = []
    for backend in ("any_device", "reference"):
        with use_backend(backend):
            (first,) = torch.autograd.grad(op(x).square().sum(), x, create_graph=True)
            seconds += torch.autograd.grad(first.square().sum(), x)
    torch.testing.assert_close(*seconds)


@pytest.mark.parametrize("library", ["oneDNN", "upcast"])
def test_second_derivatives_and_tangents_of_the_linear_map(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_module, "_FEWEST_UPCAST" if library == "upcast" else "_FEWEST_PRODUCTS", 1)
    monkeypatch.setattr(
        linear_module, "_mkl_has_slow_code", lambda: library == "oneDNN" and torch.backends.mkldnn.is_available()
    )
    monkeypatch.setattr(linear_module, "has_bf16_products", lambda: library != "upcast")
    dtype = torch.bfloat16 if library == "upcast" else torch.float32
    torch.manual_seed(0)
    given = [torch.randn(shape).to(dtype) for shape in ((3, 8), (5, 8), (5,))]

    def derivatives(function: Any, to: torch.dtype) -> list[Tensor]:
        tensors = [t.to(to).requires_grad_() for t in given]
        firsts = torch.autograd.grad(function(*tensors).pow(3).sum(), tensors, create_graph=True)
        seconds = torch.autograd.grad(sum(first.square().sum() for first in firsts), tensors)
        return [*firsts, *seconds, tangent_of(lambda x: function(x, *tensors[1:]), tensors[0])]

    for ours, exact in zip(derivatives(linear, dtype), derivatives(F.linear, torch.float64), strict=True):
        assert ours.dtype == dtype
        assert (ours - exact).norm() < (2**-5 if library == "upcast" else 1e-5) * exact.norm()


def test_tangent_of_a_whole_model() -> None:
    model = svp.create_model("vim_nano_patch4_32", num_classes=3).eval()
    svp.tune(model, "svp")
    nn.init.ones_(model.get_parameter("svp.inner_scale"))  # they start at zero
    x, direction = torch.randn(1, 3, 32, 32), torch.randn(1, 3, 32, 32)
    tangent = torch.func.jvp(model, (x,), (direction,))[1]
    with torch.no_grad():
        difference = (model(x + 0.01 * direction) - model(x - 0.01 * direction)) / 0.02
    torch.testing.assert_close(tangent, difference, rtol=0.02, atol=0.02)
