"""The plain PyTorch backends: derivatives, agreement, edges, errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from svp.ops import BACKENDS, causal_conv1d, selective_scan, use_backend
from svp.ops.selective_scan import any_device, library

PLAIN = ["reference", "any_device"]
OPTIONAL = ("D", "z", "dt_bias", "initial_state")


def scan_arguments(
    batch: int = 2,
    length: int = 4,
    d_inner: int = 3,
    d_state: int = 2,
    without: tuple[str, ...] = (),
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    tensors: dict[str, Tensor | None] = dict(
        x=noise(batch, length, d_inner),
        dt=noise(batch, length, d_inner),
        A=-noise(d_inner, d_state).exp(),
        B=noise(batch, length, d_state),
        C=noise(batch, length, d_state),
        D=noise(d_inner),
        z=noise(batch, length, d_inner),
        dt_bias=noise(d_inner),
        initial_state=noise(batch, d_inner, d_state),
    )
    for name in without:
        tensors[name] = None
    return {name: None if t is None else t.to(dtype) for name, t in tensors.items()}


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("without", [(), *((name,) for name in OPTIONAL), OPTIONAL], ids=lambda w: f"without={'+'.join(w)}")
@pytest.mark.parametrize("backend", PLAIN)
def test_scan_gradients_are_derivatives(backend: str, without: tuple[str, ...], reverse: bool) -> None:
    arguments = scan_arguments(without=without)
    names = [name for name, t in arguments.items() if t is not None]

    def scan(*tensors: Tensor) -> Any:
        given_tensors = dict(zip(names, tensors, strict=True))
        return selective_scan(**arguments | given_tensors, reverse=reverse, return_last_state=True, backend=backend)

    assert torch.autograd.gradcheck(scan, [arguments[name].requires_grad_() for name in names])


@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 9),
    d_inner=st.integers(1, 5),
    d_state=st.integers(1, 5),
    without=st.sets(st.sampled_from(OPTIONAL)),
    needed=st.sets(st.sampled_from(["x", "dt", "A", "B", "C", *OPTIONAL]), min_size=1),
    reverse=st.booleans(),
    loss_on=st.sampled_from(["y", "state", "both"]),
    seed=st.integers(0, 5),
)
@example(1, 1, 1, 1, set(), {"x", "dt", "A", "B", "C", *OPTIONAL}, True, "both", 0)
@example(1, 7, 3, 2, set(), {"z"}, False, "y", 0)
@example(2, 1, 3, 2, set(), {"x", "A"}, False, "state", 0)
@example(1, 1, 1, 1, set(), {"C"}, False, "state", 0)
@settings(max_examples=60, deadline=None)
def test_any_device_equals_reference(
    batch: int,
    length: int,
    d_inner: int,
    d_state: int,
    without: set[str],
    needed: set[str],
    reverse: bool,
    loss_on: str,
    seed: int,
) -> None:
    results = []
    for backend in PLAIN:
        arguments = scan_arguments(batch, length, d_inner, d_state, tuple(without), seed=seed)
        wanted = [arguments[name].requires_grad_() for name in sorted(needed) if arguments[name] is not None]
        y, state = selective_scan(**arguments, reverse=reverse, return_last_state=True, backend=backend)
        loss = (y.square().sum() if loss_on != "state" else 0) + (state.sin().sum() if loss_on != "y" else 0)
        # a loss on the state alone may not depend on what is wanted (C, D, z): then the reference has no graph
        loss = loss + sum(t.sum() * 0 for t in wanted)
        grads = torch.autograd.grad(loss, wanted) if wanted else ()
        results.append((y, state, *grads))
        assert all(a is None or a.requires_grad == any(a is w for w in wanted) for a in arguments.values())
    for ours, reference in zip(*reversed(results), strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-12)


def test_only_needed_gradients_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[bool]] = []
    real = any_device.backward

    def spy(grads: list[Tensor], inputs: Any, needed: list[bool], reverse: bool) -> list[Tensor]:
        calls.append(list(needed))
        results = real(grads, inputs, needed, reverse)
        assert len(results) == sum(needed)
        return results

    monkeypatch.setattr(any_device, "backward", spy)
    arguments = scan_arguments(without=("D",))
    for name in ("dt", "z"):
        arguments[name].requires_grad_()
    selective_scan(**arguments, backend="any_device").sum().backward()
    assert calls == [[name in ("dt", "z") for name in arguments]]
    assert arguments["x"].grad is None


@pytest.mark.parametrize("backend", PLAIN)
def test_reverse_is_flipped_tokens(backend: str) -> None:
    arguments = scan_arguments(length=7)
    flipped = {name: t.flip(1) if name in ("x", "dt", "B", "C", "z") else t for name, t in arguments.items()}
    y, state = selective_scan(**arguments, reverse=True, return_last_state=True, backend=backend)
    y_flipped, state_flipped = selective_scan(**flipped, return_last_state=True, backend=backend)
    torch.testing.assert_close(y, y_flipped.flip(1), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(state, state_flipped, rtol=1e-12, atol=1e-14)
    assert not torch.allclose(y, y_flipped)


@pytest.mark.parametrize("backend", PLAIN)
def test_single_token_by_hand(backend: str) -> None:
    a = scan_arguments(batch=1, length=1, d_inner=1, d_state=1)
    step = F.softplus(a["dt"] + a["dt_bias"])
    h = torch.exp(step * a["A"]) * a["initial_state"] + step * a["B"] * a["x"]
    y, state = selective_scan(**a, return_last_state=True, backend=backend)
    torch.testing.assert_close(y, (a["C"] * h + a["D"] * a["x"]) * F.silu(a["z"]))
    torch.testing.assert_close(state, h)


@pytest.mark.parametrize("backend", PLAIN)
def test_bfloat16_in_bfloat16_out_state_in_float32(backend: str) -> None:
    arguments = scan_arguments(length=50, dtype=torch.bfloat16)
    leaves = {name: t.requires_grad_() for name, t in arguments.items()}
    y, state = selective_scan(**leaves, return_last_state=True, backend=backend)
    assert (y.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    exact = {name: t.detach().double() for name, t in arguments.items()}
    expected_y, expected_state = selective_scan(**exact, return_last_state=True, backend="reference")
    torch.testing.assert_close(state.double(), expected_state, rtol=1e-5, atol=1e-6)  # the inputs are all that is rounded
    torch.testing.assert_close(y.double(), expected_y, rtol=2**-8, atol=1e-6)  # half a unit in the last place, once
    y.float().sum().backward()
    assert all(t.grad is not None and t.grad.dtype == torch.bfloat16 for t in leaves.values())


@pytest.mark.parametrize("backend", PLAIN)
def test_mixed_dtypes_as_under_autocast(backend: str) -> None:
    arguments = scan_arguments(length=6, dtype=torch.float32)
    for name in ("x", "B", "C", "z"):
        arguments[name] = arguments[name].bfloat16()
    leaves = {name: t.requires_grad_() for name, t in arguments.items()}
    y, state = selective_scan(**leaves, return_last_state=True, backend=backend)
    assert (y.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    y.float().sum().backward()
    assert all(t.grad.dtype == t.dtype and torch.isfinite(t.grad).all() for t in leaves.values())


@pytest.mark.parametrize("backend", PLAIN)
def test_non_contiguous_arguments(backend: str) -> None:
    arguments = scan_arguments(length=5)
    strided = {name: t if t.ndim < 3 else t.transpose(1, 2).contiguous().transpose(1, 2) for name, t in arguments.items()}
    assert not strided["x"].is_contiguous()
    results = []
    for tensors in (arguments, strided):
        leaves = {name: t.detach().requires_grad_() for name, t in tensors.items()}
        y = selective_scan(**leaves, backend=backend)
        results.append([y, *torch.autograd.grad(y.square().sum(), list(leaves.values()))])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("x", (4, 3)),
        ("x", (2, 0, 3)),
        ("dt", (2, 4, 2)),
        ("A", (3,)),
        ("A", (2, 3)),
        ("B", (2, 4, 3)),
        ("C", (2, 5, 2)),
        ("D", (2,)),
        ("z", (1, 4, 3)),
        ("dt_bias", (3, 1)),
    ],
)
def test_shape_errors_name_the_argument(name: str, shape: tuple[int, ...]) -> None:
    arguments = scan_arguments() | {name: torch.zeros(shape, dtype=torch.float64)}
    with pytest.raises(ValueError, match=rf"selective_scan: {name} has shape \({shape[0]},.*expected \("):
        selective_scan(**arguments)


# torch's own view of the op ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("without", [(), OPTIONAL], ids=["all", "required"])
def test_library_op_keeps_torchs_rules(without: tuple[str, ...], reverse: bool) -> None:
    arguments = scan_arguments(without=without, dtype=torch.float32)
    tensors = [t if t is None else t.requires_grad_() for t in arguments.values()]
    torch.library.opcheck(library.selective_scan_op, (*tensors, reverse, "any_device"))


def test_scan_compiles_into_one_graph() -> None:
    arguments = scan_arguments(dtype=torch.float32)

    def loss(x: Tensor, z: Tensor) -> Tensor:
        y, state = selective_scan(**arguments | {"x": x, "z": z}, return_last_state=True, backend="any_device")
        return y.square().sum() + state.sum()

    inputs = [arguments["x"].requires_grad_(), arguments["z"].requires_grad_()]
    expected = loss(*inputs)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")(*inputs)
    torch.testing.assert_close(compiled, expected)
    torch.testing.assert_close(torch.autograd.grad(compiled, inputs), torch.autograd.grad(expected, inputs))


# choosing a backend --------------------------------------------------------------------------------------------------------


def test_use_backend_chooses_unless_a_call_names_one(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    forward = any_device.forward
    monkeypatch.setattr(any_device, "forward", lambda *a: calls.append("any_device") or forward(*a))  # type: ignore[func-returns-value]
    arguments = scan_arguments()
    with use_backend("reference"):
        selective_scan(**arguments)
        assert calls == []
        selective_scan(**arguments, backend="any_device")
        assert calls == ["any_device"]
        with use_backend("any_device"):
            selective_scan(**arguments)
        assert calls == ["any_device"] * 2
        selective_scan(**arguments)  # the inner choice has ended
        assert calls == ["any_device"] * 2


def test_use_backend_ends_with_an_error() -> None:
    with pytest.raises(KeyError), use_backend("reference"):
        raise KeyError
    from svp.ops.backend import _chosen

    assert _chosen.get() == "auto"


def test_unknown_backend_is_refused() -> None:
    arguments = scan_arguments()
    with pytest.raises(ValueError, match=f"unknown ops backend 'nope'; known: {', '.join(BACKENDS)}"):
        selective_scan(**arguments, backend="nope")
    with pytest.raises(ValueError, match=r"unknown ops backend 'nope'"), use_backend("nope"):
        pass
    with pytest.raises(ValueError, match=r"unknown ops backend 'nope'"):
        causal_conv1d(arguments["x"], torch.zeros(3, 4), backend="nope")
    assert BACKENDS[0] == "auto"


# convolution ---------------------------------------------------------------------------------------------------------------


def conv_by_torch(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None, reverse: bool) -> Tensor:
    x = x.flip(1) if reverse else x
    d_inner, d_conv = weight.shape
    y = F.conv1d(x.transpose(1, 2), weight.unsqueeze(1), bias, padding=d_conv - 1, groups=d_inner)
    y = y[..., : x.shape[1]].transpose(1, 2)
    y = F.silu(y) if activation == "silu" else y
    return y.flip(1) if reverse else y


@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 9),
    d_inner=st.integers(1, 5),
    d_conv=st.integers(1, 5),
    with_bias=st.booleans(),
    activation=st.sampled_from(["silu", None]),
    reverse=st.booleans(),
    backend=st.sampled_from(PLAIN),
)
@example(1, 1, 1, 4, True, "silu", True, "any_device")
@settings(max_examples=50, deadline=None)
def test_conv_equals_torchs(
    batch: int,
    length: int,
    d_inner: int,
    d_conv: int,
    with_bias: bool,
    activation: str | None,
    reverse: bool,
    backend: str,
) -> None:
    generator = torch.Generator().manual_seed(length)
    shapes = [(batch, length, d_inner), (d_inner, d_conv), (d_inner,)]
    x, weight, bias = (torch.randn(*s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes)
    leaves = [x, weight, bias] if with_bias else [x, weight]
    used = bias if with_bias else None
    ours = causal_conv1d(x, weight, used, activation=activation, reverse=reverse, backend=backend)
    expected = conv_by_torch(x, weight, used, activation, reverse)
    torch.testing.assert_close(ours, expected)
    cotangent = torch.randn(ours.shape, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(
        torch.autograd.grad((ours * cotangent).sum(), leaves), torch.autograd.grad((expected * cotangent).sum(), leaves)
    )


def test_conv_keeps_the_dtype_of_its_input() -> None:
    x, weight = torch.randn(1, 5, 3), torch.randn(3, 4)
    assert causal_conv1d(x.bfloat16(), weight).dtype == torch.bfloat16
    assert causal_conv1d(x.double(), weight).dtype == torch.float64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(x=torch.zeros(5, 3)), r"x has shape \(5, 3\), expected \(batch, length >= 1, d_inner\)"),
        (dict(x=torch.zeros(1, 0, 3)), r"x has shape \(1, 0, 3\)"),
        (dict(weight=torch.zeros(3, 1, 4)), r"weight has shape \(3, 1, 4\), expected \(3, d_conv\)"),
        (dict(weight=torch.zeros(2, 4)), r"weight has shape \(2, 4\)"),
        (dict(bias=torch.zeros(4)), r"bias has shape \(4,\), expected \(3,\)"),
        (dict(activation="relu"), r"activation is 'relu', expected 'silu' or None"),
    ],
)
def test_conv_errors_name_the_argument(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = dict(x=torch.zeros(1, 5, 3), weight=torch.zeros(3, 4), bias=torch.zeros(3)) | change
    with pytest.raises(ValueError, match=f"causal_conv1d: {message}"):
        causal_conv1d(**arguments)
