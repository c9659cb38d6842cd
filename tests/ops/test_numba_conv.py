"""The Numba convolution against the reference run in float64."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from svp.ops import causal_conv1d
from svp.ops.causal_conv1d import cpu_numba, library
from tests.ops.numba_helpers import assert_close
from tests.ops.test_numba_scan import shape_of

NAMES = ("x", "weight", "bias")


def arguments(
    batch: int = 2,
    length: int = 19,
    d_inner: int = 40,
    d_conv: int = 4,
    bias: bool = True,
    dtype: torch.dtype = torch.float32,
    contiguous: bool = True,
    seed: int = 0,
) -> dict[str, Tensor | None]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, length, 2 * d_inner, generator=generator).to(dtype).chunk(2, dim=-1)[0]
    weight = torch.randn(d_inner, d_conv, generator=generator)
    return dict(
        x=x.contiguous() if contiguous else x, weight=weight, bias=torch.randn(d_inner, generator=generator) if bias else None
    )


def run(
    backend: str,
    given_arguments: dict[str, Tensor | None],
    activation: str | None,
    reverse: bool,
    needed: Iterable[str] = NAMES,
) -> dict[str, Tensor]:
    exact = backend == "reference"
    tensors = {k: None if t is None else t.detach().double() if exact else t.detach() for k, t in given_arguments.items()}
    leaves = {k: t.requires_grad_() for k, t in tensors.items() if t is not None and k in needed}
    y = causal_conv1d(**tensors, activation=activation, reverse=reverse, backend=backend)  # type: ignore[arg-type]
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(99)).to(given_arguments["x"].dtype)  # type: ignore[union-attr]
    grads = torch.autograd.grad(y, list(leaves.values()), weights.to(y))
    return {"y": y.detach(), **{f"gradient of {k}": g for k, g in zip(leaves, grads, strict=True)}}


def check(
    given_arguments: dict[str, Tensor | None], activation: str | None, reverse: bool, needed: Iterable[str] = NAMES
) -> None:
    truth = run("reference", given_arguments, activation, reverse, needed)
    actual = run("numba", given_arguments, activation, reverse, needed)
    assert actual.keys() == truth.keys()
    for name, value in actual.items():
        assert_close(value, truth[name], name)


@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 140),
    d_inner=st.integers(1, 70),
    d_conv=st.integers(1, 6),
    bias=st.booleans(),
    needed=st.sets(st.sampled_from(NAMES), min_size=1),
    activation=st.sampled_from(["silu", None]),
    contiguous=st.booleans(),
    reverse=st.booleans(),
    seed=st.integers(0, 5),
)
@example(1, 1, 1, 1, True, set(NAMES), "silu", True, False, 0)
@example(1, 2, 17, 5, True, set(NAMES), "silu", True, True, 0)
@example(2, 129, 64, 4, False, {"x"}, "silu", False, False, 0)
@example(3, 64, 32, 4, True, {"weight"}, None, False, True, 0)
@settings(max_examples=40, deadline=None)
def test_equals_reference(
    batch: int,
    length: int,
    d_inner: int,
    d_conv: int,
    bias: bool,
    needed: set[str],
    activation: str | None,
    contiguous: bool,
    reverse: bool,
    seed: int,
) -> None:
    if needed == {"bias"} and not bias:
        needed = set(NAMES)
    case = arguments(batch, length, d_inner, d_conv, bias, contiguous=contiguous, seed=seed)
    check(case, activation, reverse, needed)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(dtype: torch.dtype) -> None:
    check(arguments(dtype=dtype, contiguous=False), "silu", reverse=False)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_non_finite_input_reaches_the_output(name: str, value: float) -> None:
    given_arguments = arguments(2, 7, 20)
    poisoned = given_arguments[name]
    assert poisoned is not None
    poisoned[(1,) * poisoned.ndim] = value
    truth = causal_conv1d(**given_arguments, backend="reference")  # type: ignore[arg-type]
    actual = causal_conv1d(**given_arguments, backend="numba")  # type: ignore[arg-type]
    assert torch.equal(actual.isnan(), truth.isnan())
    assert torch.equal(actual.isposinf(), truth.isposinf())
    assert torch.equal(actual.isneginf(), truth.isneginf())


def test_one_and_many_threads_agree() -> None:
    given_arguments = arguments(3, 70, 96)
    several = run("numba", given_arguments, "silu", reverse=False)
    torch.set_num_threads(1)
    for name, value in run("numba", given_arguments, "silu", reverse=False).items():
        assert_close(value, several[name].double(), name)


def test_every_output_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    given_arguments = arguments(2, 70)
    clean = run("numba", given_arguments, "silu", reverse=True)
    monkeypatch.setattr(cpu_numba.torch, "empty", lambda *shape, **options: torch.full(shape_of(shape), torch.nan, **options))
    for name, value in run("numba", given_arguments, "silu", reverse=True).items():
        assert torch.equal(value, clean[name]), name


def test_empty_batch() -> None:
    assert causal_conv1d(**arguments(batch=0), backend="numba").shape == (0, 19, 40)  # type: ignore[arg-type]


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
def test_opcheck(bias: bool) -> None:
    tensors: list[Any] = [None if t is None else t.requires_grad_() for t in arguments(1, 4, 3, bias=bias).values()]
    torch.library.opcheck(library.causal_conv1d_op, (*tensors, "silu", True, "numba"))


def test_compiles_without_a_break() -> None:
    tensors = [t.requires_grad_() for t in arguments().values() if t is not None]
    expected = causal_conv1d(*tensors)
    actual = torch.compile(causal_conv1d, fullgraph=True, backend="aot_eager")(*tensors)
    assert torch.equal(actual, expected)
    for a, b in zip(torch.autograd.grad(actual.sum(), tensors), torch.autograd.grad(expected.sum(), tensors), strict=True):
        assert torch.equal(a, b)


def test_named_backend_runs_or_raises() -> None:
    with pytest.raises(ValueError, match=r"'numba' takes float32, bfloat16 and float16, got torch\.float64"):
        causal_conv1d(torch.zeros(1, 2, 3, dtype=torch.float64), torch.zeros(3, 4), backend="numba")
