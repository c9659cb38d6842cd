"""Both directions of a mixer in one op: fused kernels against the definition, and when they are not taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from svp.ops import Direction, bidirectional_scan
from svp.ops.bidirectional_scan import cpu_numba
from svp.ops.bidirectional_scan.library import bidirectional_scan_op
from svp.ops.bidirectional_scan.reference import flat_weights
from tests.ops.numba_helpers import TOLERANCES, assert_close
from tests.ops.test_numba_scan import shape_of


def direction(
    d_inner: int, d_conv: int, dt_rank: int, d_state: int, dtype: torch.dtype = torch.float32, states: int = 0
) -> Direction:
    """Weights of a direction, with an initial state for so many images."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=dtype)

    return Direction(
        conv_weight=normal(d_inner, d_conv) * 0.5,
        conv_bias=normal(d_inner) * 0.1,
        x_proj=normal(dt_rank + 2 * d_state, d_inner) * d_inner**-0.5,
        dt_proj=normal(d_inner, dt_rank) * dt_rank**-0.5,
        dt_bias=normal(d_inner) - 3,
        A=-8 * torch.rand(d_inner, d_state, dtype=dtype) - 0.05,
        D=normal(d_inner),
        initial_state=normal(states, d_inner, d_state) if states else None,
    )


def case(batch: int = 2, length: int = 19, d_inner: int = 32, **sizes: int) -> tuple[Tensor, Direction, Direction]:
    sizes = dict(d_conv=4, dt_rank=3, d_state=5) | sizes
    return torch.randn(batch, length, 2 * d_inner), direction(d_inner, **sizes), direction(d_inner, **sizes)


def run(backend: str, xz: Tensor, forward: Direction, backward: Direction, train: bool = False) -> dict[str, Tensor]:
    """Output, and gradients for a fixed gradient of the output."""
    xz = xz.detach().requires_grad_()
    sides = {
        side: mapped(lambda weight: weight.detach().requires_grad_(train), weights)
        for side, weights in (("forward", forward), ("backward", backward))
    }
    out = bidirectional_scan(xz, **sides, backend=backend)
    grad_out = torch.linspace(-1, 2, out.numel(), dtype=torch.float64).view(out.shape).to(out)
    wanted = {"xz": xz}
    if train:
        wanted |= {f"{side}.{n}": w for side, weights in sides.items() for n, w in weights._asdict().items() if w is not None}
    grads = torch.autograd.grad(out, list(wanted.values()), grad_out)
    return {"out": out.detach()} | dict(zip(wanted, grads, strict=True))


def mapped(function: Callable[[Tensor], Tensor], weights: Direction) -> Direction:
    return Direction(*(None if weight is None else function(weight) for weight in weights))


def doubled(weights: Direction) -> Direction:
    return mapped(Tensor.double, weights)


def check(xz: Tensor, forward: Direction, backward: Direction, tolerance: float | None = None) -> None:
    truth = run("reference", xz.double(), doubled(forward), doubled(backward), train=True)
    trained = run("numba", xz, forward, backward, train=True)
    for name, expected in truth.items():
        assert trained[name].dtype == xz.dtype
        assert_close(trained[name], expected, name, tolerance)
    for name, value in run("numba", xz, forward, backward).items():
        assert torch.equal(value, trained[name]), f"{name} depends on what else is asked for"


@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 130])
def test_equals_reference(length: int) -> None:
    check(*case(length=length))


def test_more_than_one_chunk_of_kept_states(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_numba, "KEPT_TOKENS", 50)
    check(*case(batch=1, length=103, d_state=40))


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 5),
    length=st.integers(1, 80),
    blocks=st.integers(1, 6),
    d_conv=st.integers(1, 5),
    dt_rank=st.integers(1, 7),
    d_state=st.integers(1, 33),
)
@example(batch=1, length=3, blocks=5, d_conv=5, dt_rank=1, d_state=64)
def test_equals_reference_anywhere(batch: int, length: int, blocks: int, d_conv: int, dt_rank: int, d_state: int) -> None:
    torch.manual_seed(batch * length)
    check(*case(batch, length, 16 * blocks, d_conv=d_conv, dt_rank=dt_rank, d_state=d_state))


@pytest.mark.parametrize("sizes", [dict(d_conv=2), dict(dt_rank=1), dict(d_state=9)], ids=lambda sizes: next(iter(sizes)))
def test_directions_of_different_sizes(sizes: dict[str, int]) -> None:
    xz, forward, _ = case()
    check(xz, forward, case(**sizes)[2])


@pytest.mark.parametrize("blocks", [1, 2, 3, 5])
def test_any_number_of_blocks_in_a_tile(blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_numba, "_TILE_VECTORS", 19 * blocks)
    check(*case(batch=1, d_inner=80))


def test_bfloat16() -> None:
    xz, forward, backward = case(length=40)
    rounded = [mapped(Tensor.bfloat16, weights) for weights in (forward, backward)]
    # the convolved input and its projections are stored in bfloat16 too: two roundings meet in one value
    check(xz.bfloat16(), *rounded, tolerance=2 * TOLERANCES[torch.bfloat16])


def test_with_avx2_alone_nothing_inside_is_rounded_to_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_numba, "HAS_AVX512", False)  # what the host does then, with kernels for this machine
    monkeypatch.setattr(cpu_numba, "has_bf16_products", lambda: False)
    xz, forward, backward = case(length=40)
    rounded = [mapped(Tensor.bfloat16, weights) for weights in (forward, backward)]
    xz = xz.bfloat16()
    check(xz, *rounded, tolerance=TOLERANCES[torch.bfloat16])
    exact = bidirectional_scan(xz.float(), forward, backward)
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            assert torch.equal(bidirectional_scan(xz, forward, backward), exact.bfloat16())


def test_channels_may_be_distant_and_tokens_too() -> None:
    xz, forward, backward = case()
    expected = run("numba", xz, forward, backward)
    spread = torch.stack([xz, xz], dim=-1)[..., 0], torch.cat([xz, xz], dim=1)[:, :19]
    for view in spread:
        assert not view.is_contiguous()
        for name, actual in run("numba", view, forward, backward).items():
            assert torch.equal(actual, expected[name]), name


def test_one_and_many_threads_agree() -> None:
    given_case = case(batch=3, d_inner=80)
    several = run("numba", *given_case, train=True)
    torch.set_num_threads(1)
    for name, value in run("numba", *given_case, train=True).items():
        assert_close(value, several[name].double(), name)


def test_every_output_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    given_case = case(length=70)
    clean = run("numba", *given_case, train=True)
    monkeypatch.setattr(cpu_numba.torch, "empty", lambda *shape, **options: torch.full(shape_of(shape), torch.nan, **options))
    for name, actual in run("numba", *given_case, train=True).items():
        assert torch.equal(actual, clean[name]), name


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
@pytest.mark.parametrize("channel", [3, 40], ids=["x", "z"])
def test_non_finite_input_reaches_the_output(value: float, channel: int) -> None:
    xz, forward, backward = case(d_inner=32)
    xz[1, 4, channel] = value
    actual = bidirectional_scan(xz, forward, backward, "numba")
    expected = bidirectional_scan(xz, forward, backward, "reference")
    assert not expected.isfinite().all()
    assert torch.equal(
        actual.isfinite(), expected.isfinite()
    )  # inf - inf may be NaN in one and, gated later, inf in the other


@pytest.mark.parametrize("d_inner", [20, 32])
@pytest.mark.parametrize("states", [1, 2])
def test_initial_states_of_one_image_or_all(states: int, d_inner: int) -> None:
    check(*case(length=70, d_inner=d_inner, d_state=17, states=states))


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_one_direction_may_start_at_zero(backend: str) -> None:
    xz, forward, backward = case(states=1)
    assert forward.initial_state is not None
    expected = run(backend, xz, forward._replace(initial_state=torch.zeros_like(forward.initial_state)), backward)
    actual = run(backend, xz, forward._replace(initial_state=None), backward)
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


def test_state_alone_trains_without_gradients_of_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    xz, forward, backward = case(states=1)
    expected = run("numba", xz, forward, backward, train=True)
    asked: list[list[bool]] = []
    real = cpu_numba.backward
    monkeypatch.setattr(cpu_numba, "backward", lambda *args: (asked.append(args[2]), real(*args))[1])
    assert forward.initial_state is not None
    state = forward.initial_state.requires_grad_()
    out = bidirectional_scan(xz, forward, backward, "numba")
    out.backward(torch.linspace(-1, 2, out.numel(), dtype=torch.float64).view(out.shape).to(out))
    assert asked == [[False] * 15 + [True, False]]
    assert torch.equal(state.grad, expected["forward.initial_state"])  # type: ignore[arg-type]


def test_any_number_of_channels() -> None:
    check(*case(d_inner=20))


def test_frozen_weights_cost_no_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[bool]] = []
    backward = cpu_numba.backward
    monkeypatch.setattr(cpu_numba, "backward", lambda *args: (asked.append(args[2]), backward(*args))[1])
    run("numba", *case())
    run("numba", *case(), train=True)
    assert asked == [[True] + [False] * 14, [True] * 15]


@pytest.mark.parametrize(("states", "parts"), [(0, [10, 9]), (1, [10, 9]), (19, [19])])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_few_images_at_a_time_unless_they_have_their_own_states(
    dtype: torch.dtype, states: int, parts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    xz, forward, backward = case(batch=19, d_inner=16, states=states)  # one block: sums are of the same parts
    xz = xz.to(dtype)
    given: list[int] = []
    call = cpu_numba._Call
    monkeypatch.setattr(cpu_numba, "_FEW_VALUES", 16 * 19 * 2)  # of two images: eight are more
    monkeypatch.setattr(cpu_numba, "_Call", lambda xz, *rest: (given.append(len(xz)), call(xz, *rest))[1])
    actual = run("numba", xz, forward, backward)
    assert given == [*parts, *parts]
    monkeypatch.setattr(cpu_numba, "_FEW_IMAGES", 19)
    expected = run("numba", xz, forward, backward)
    assert given[2 * len(parts) :] == [19, 19]
    for name, value in actual.items():
        assert torch.equal(value, expected[name]), name


def test_weights_are_converted_once_for_both_passes_and_anew_once_they_change(monkeypatch: pytest.MonkeyPatch) -> None:
    xz, forward, backward = case()
    conversions: list[Any] = []
    convert = cpu_numba._both_kernel_weights
    monkeypatch.setattr(cpu_numba, "_both_kernel_weights", lambda weights: conversions.append(weights) or convert(weights))
    xz.requires_grad_()
    expected = torch.autograd.grad(bidirectional_scan(xz, forward, backward, "numba").sum(), xz)[0]
    assert len(conversions) == 1
    first = bidirectional_scan(xz, forward, backward, "numba").sum()
    other = forward._replace(dt_bias=forward.dt_bias + 1)
    second = bidirectional_scan(xz, other, backward, "numba").sum()  # the same A
    for _ in range(2):
        assert torch.equal(torch.autograd.grad(first, xz, retain_graph=True)[0], expected)
        assert not torch.equal(torch.autograd.grad(second, xz, retain_graph=True)[0], expected)
    forward.D.data.add_(1)  # which PyTorch does not count
    moved = torch.autograd.grad(bidirectional_scan(xz, forward, backward, "numba").sum(), xz)[0]
    assert not torch.equal(moved, expected)


def test_weights_made_in_inference_mode() -> None:
    """Their changes are not counted; A, which is computed from one of them, is no such tensor."""
    with torch.inference_mode():
        xz, forward, backward = case()
    forward, backward = (weights._replace(A=weights.A * 1) for weights in (forward, backward))
    assert not forward.A.is_inference()
    with torch.no_grad():
        actual = bidirectional_scan(xz, forward, backward, "numba")
        expected = bidirectional_scan(xz.double(), doubled(forward), doubled(backward), "reference")
    assert (actual - expected).abs().max() < 1e-4 * expected.abs().max()


def test_nothing_but_the_input_is_kept_for_the_backward_pass() -> None:
    xz, forward, backward = case()
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        bidirectional_scan(xz.requires_grad_(), forward, backward, "numba")
    known = {tensor.data_ptr() for tensor in (xz, *forward[:7], *backward[:7])}
    assert {tensor.data_ptr() for tensor in kept} <= known


@pytest.mark.parametrize(("train", "states"), [(False, 0), (True, 0), (True, 1)])
def test_opcheck(train: bool, states: int) -> None:
    xz, forward, backward = case(batch=1, length=5, d_inner=16, states=states)
    weights = [weight.requires_grad_(train) for weight in flat_weights(forward, backward)]
    torch.library.opcheck(bidirectional_scan_op, (xz.requires_grad_(), weights, "numba"))


@pytest.mark.parametrize("states", [0, 1])
def test_compiles_without_a_break(states: int) -> None:
    given_case = case(states=states)
    compiled: Any = torch.compile(bidirectional_scan, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(*given_case, "numba"), bidirectional_scan(*given_case, "numba"))


@pytest.mark.parametrize("field", Direction._fields)
@pytest.mark.parametrize("side", ["forward", "backward"])
def test_wrong_shapes_are_named(side: str, field: str) -> None:
    xz, forward, backward = case(states=2)
    sides = {"forward": forward, "backward": backward}
    wrong = getattr(sides[side], field)
    sides[side] = sides[side]._replace(**{field: torch.cat([wrong, wrong])})
    with pytest.raises(ValueError, match=rf"{side}\.\w+ has shape"):
        bidirectional_scan(xz, **sides)


@pytest.mark.parametrize("shape", [(2, 64), (2, 0, 64), (2, 3, 63)])
def test_wrong_input_is_refused(shape: tuple[int, ...]) -> None:
    _, forward, backward = case()
    with pytest.raises(ValueError, match="xz has shape"):
        bidirectional_scan(torch.zeros(shape), forward, backward)
