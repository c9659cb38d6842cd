"""The Numba scan against the reference run in float64, and what a compiled kernel may get wrong besides arithmetic."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from svp.ops import selective_scan, use_backend
from svp.ops.selective_scan import any_device, cpu_numba, library
from tests.ops.numba_helpers import TOLERANCES, assert_close
from tests.processes import printed_by

NAMES = ("x", "dt", "A", "B", "C", "D", "z", "dt_bias", "initial_state")
SEQUENCES = ("x", "dt", "B", "C", "z")
OPTIONAL = ("D", "z", "dt_bias", "initial_state")


def arguments(
    batch: int = 2,
    length: int = 19,
    d_inner: int = 40,
    d_state: int = 5,
    without: Iterable[str] = (),
    dtype: torch.dtype = torch.float32,
    contiguous: bool = True,
    seed: int = 0,
) -> dict[str, Tensor | None]:
    """Sequences in `dtype`, parameters in float32, as the model calls the scan."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    tensors = dict(
        x=noise(batch, length, d_inner),
        dt=noise(batch, length, d_inner) - 1,
        A=-noise(d_inner, d_state).exp(),
        B=noise(batch, length, d_state),
        C=noise(batch, length, d_state),
        D=noise(d_inner),
        z=noise(batch, length, d_inner),
        dt_bias=noise(d_inner),
        initial_state=noise(batch, d_inner, d_state),
    )
    for name in SEQUENCES:
        t = tensors[name].to(dtype)
        if not contiguous:  # half of a wider tensor, as chunk() gives it, or channels far apart
            t = (
                torch.cat([t, t], dim=-1)[..., : t.shape[-1]]
                if name in "xz"
                else t.transpose(1, 2).contiguous().transpose(1, 2)
            )
        tensors[name] = t
    if not contiguous:
        tensors["A"] = tensors["A"].T.contiguous().T
    return {name: None if name in without else t for name, t in tensors.items()}


def run(
    backend: str, given_arguments: dict[str, Tensor | None], reverse: bool, needed: Iterable[str] = NAMES
) -> dict[str, Tensor]:
    """Outputs and gradients by name, of a loss that weighs both outputs."""
    exact = backend == "reference"
    tensors = {k: None if t is None else t.detach().double() if exact else t.detach() for k, t in given_arguments.items()}
    leaves = {k: t.requires_grad_() for k, t in tensors.items() if t is not None and k in needed}
    y, state = selective_scan(**tensors, reverse=reverse, return_last_state=True, backend=backend)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(99)
    dtype = given_arguments["x"].dtype  # type: ignore[union-attr]
    weighted = [(t, torch.randn(t.shape, generator=generator).to(dtype).to(t)) for t in (y, state)]
    weighted = [(t, weight) for t, weight in weighted if t.requires_grad]  # the state does not depend on C, D and z
    grads = torch.autograd.grad([t for t, _ in weighted], list(leaves.values()), [weight for _, weight in weighted])
    return {
        "y": y.detach(),
        "last state": state.detach(),
        **{f"gradient of {k}": g for k, g in zip(leaves, grads, strict=True)},
    }


def check(given_arguments: dict[str, Tensor | None], reverse: bool, needed: Iterable[str] = NAMES) -> None:
    dtype = given_arguments["x"].dtype  # type: ignore[union-attr]
    truth = run("reference", given_arguments, reverse)
    actual = run("numba", given_arguments, reverse, needed)
    assert actual.keys() == {name for name in truth if name.removeprefix("gradient of ") in {*needed, "y", "last state"}}
    assert actual["y"].dtype == dtype
    for name, value in actual.items():
        assert_close(value, truth[name], name, _tolerance_of_a_sum(truth) if name == "gradient of dt_bias" else None)


def _tolerance_of_a_sum(truth: dict[str, Tensor]) -> float:
    """For the gradient of dt_bias, the sum of that of dt over tokens: its terms may be hundreds of times as large as it is."""
    terms, total = truth["gradient of dt"].abs().sum((0, 1)).max(), truth["gradient of dt_bias"].abs().max()
    return TOLERANCES[torch.float32] * ((1 + terms) / (1 + total)).item()


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize(
    ("batch", "length", "d_inner", "d_state"),
    [(1, 1, 1, 1), (1, 63, 96, 16), (2, 65, 40, 5), (3, 300, 16, 16), (1, 130, 17, 64), (5, 9, 32, 17)],
    ids=lambda n: str(n),
)
def test_equals_reference(batch: int, length: int, d_inner: int, d_state: int, reverse: bool) -> None:
    check(arguments(batch, length, d_inner, d_state), reverse)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_more_than_one_chunk_of_kept_states(reverse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_numba, "KEPT_TOKENS", 50)
    check(arguments(2, 103, 20, 5), reverse)


@given(
    batch=st.integers(1, 4),
    length=st.integers(1, 140),
    d_inner=st.integers(1, 70),
    d_state=st.sampled_from([1, 5, 16, 64]),
    without=st.sets(st.sampled_from(OPTIONAL)),
    needed=st.sets(st.sampled_from(NAMES), min_size=1),
    contiguous=st.booleans(),
    reverse=st.booleans(),
    seed=st.integers(0, 5),
)
@example(2, 20, 32, 16, {"D", "z", "dt_bias"}, set(NAMES), True, True, 0)
@example(2, 100, 32, 64, set(), {"x", "dt", "B", "C", "z"}, False, False, 0)
@settings(max_examples=40, deadline=None)
def test_equals_reference_anywhere(
    batch: int,
    length: int,
    d_inner: int,
    d_state: int,
    without: set[str],
    needed: set[str],
    contiguous: bool,
    reverse: bool,
    seed: int,
) -> None:
    if not needed - without:
        needed = set(NAMES)
    check(arguments(batch, length, d_inner, d_state, without, contiguous=contiguous, seed=seed), reverse, needed)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(dtype: torch.dtype) -> None:
    check(arguments(dtype=dtype, contiguous=False), reverse=False)


def test_one_and_many_threads_agree() -> None:
    given_arguments = arguments(3, 70, 96, 16)
    several = run("numba", given_arguments, reverse=False)
    torch.set_num_threads(1)
    for name, value in run("numba", given_arguments, reverse=False).items():
        assert_close(value, several[name].double(), name)


def test_empty_batch() -> None:
    y, state = selective_scan(**arguments(batch=0), return_last_state=True, backend="numba")  # type: ignore[arg-type]
    assert y.shape == (0, 19, 40)
    assert state.shape == (0, 40, 5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")], ids=str)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("d_state", [4, 3])
def test_non_finite_input_reaches_the_output(d_state: int, name: str, value: float) -> None:
    given_arguments = arguments(2, 7, 20, d_state)
    poisoned = given_arguments[name]
    assert poisoned is not None
    poisoned[(1,) * poisoned.ndim] = value
    truth = [t.float() for t in selective_scan(**given_arguments, return_last_state=True, backend="reference")]  # type: ignore[arg-type]
    actual = selective_scan(**given_arguments, return_last_state=True, backend="numba")  # type: ignore[arg-type]
    for a, b in zip(actual, truth, strict=True):
        finite = b.isfinite()
        assert torch.equal(a.isfinite(), finite)
        if d_state % cpu_numba.STATES == 0:  # else states are added whose zeros make NaN of inf
            assert torch.equal(a.isnan(), b.isnan())
            assert torch.equal(a.isposinf(), b.isposinf())
            assert torch.equal(a.isneginf(), b.isneginf())
        assert_close(a[finite], b[finite].double(), name)


def test_nan_with_a_payload_stays_nan() -> None:
    given_arguments = arguments(1, 3, 16, 2)
    assert given_arguments["dt"] is not None
    given_arguments["dt"].view(torch.int32)[0, 0] = 0x7FC00001  # low bits are an exponent where exp2 is not careful
    assert selective_scan(**given_arguments, backend="numba").isnan().all()  # type: ignore[arg-type]


@pytest.mark.parametrize("dt", [-100.0, -30.0, 0.0, 15.0, 25.0, 100.0])
def test_extreme_steps_and_gates(dt: float) -> None:
    given_arguments = arguments(1, 9, 16, 2, without=["dt_bias"])
    assert given_arguments["dt"] is not None
    assert given_arguments["z"] is not None
    given_arguments["dt"].fill_(dt)
    given_arguments["z"].copy_(torch.linspace(-100, 100, 16))
    check(given_arguments, reverse=False)


def test_every_output_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    given_arguments = arguments(2, 70, 40, 5)
    clean = run("numba", given_arguments, reverse=True)
    monkeypatch.setattr(cpu_numba.torch, "empty", lambda *shape, **options: torch.full(shape_of(shape), torch.nan, **options))
    for name, value in run("numba", given_arguments, reverse=True).items():
        assert torch.equal(value, clean[name]), name


def shape_of(shape: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else shape


@pytest.fixture
def odd_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The C library fills what it hands out with 0xfe, as float -1.7e38, and what it takes back with 0x01."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)
    mallopt, perturb = getattr(ctypes.CDLL(None), "mallopt", None), -6
    if mallopt is None:
        pytest.skip("glibc alone has the setting")
    mallopt(perturb, 1)
    yield
    mallopt(perturb, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone has the setting")
def test_scratch_is_written_before_it_is_read(odd_memory: None) -> None:
    assert torch.empty(5000)[2500:].lt(-1e38).all()
    for reverse in (False, True):
        check(arguments(3, 300, 40, 17), reverse)


def test_import_does_not_load_numba() -> None:
    code = "import sys, svp.ops; print('numba' in sys.modules, 'llvmlite' in sys.modules)"
    assert printed_by(code).split() == ["False", "False"]


def test_python_threads_at_once() -> None:
    cases = [arguments(2, 60, 64, 16, seed=seed) for seed in range(4)]
    expected = [run("numba", case, reverse=False) for case in cases]
    failures: list[BaseException] = []

    def repeat(i: int) -> None:
        try:
            for _ in range(10):
                for name, value in run("numba", cases[i], reverse=False).items():
                    assert torch.equal(value, expected[i][name]), name
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=repeat, args=(i,)) for i in range(len(cases))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(200)
        assert not thread.is_alive()
    assert not failures


class Scans(Dataset[Tensor]):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Tensor:
        torch.get_num_threads = lambda: 2  # a worker has 1; even if asked for more, no pool may start after a fork
        return selective_scan(**arguments(seed=index), backend="numba")  # type: ignore[arg-type]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_in_a_forked_worker() -> None:
    expected = [selective_scan(**arguments(seed=seed), backend="numba") for seed in range(2)]  # type: ignore[arg-type]
    loader = DataLoader(Scans(), batch_size=None, num_workers=1, multiprocessing_context="fork", timeout=200)
    for actual, value in zip(loader, expected, strict=True):
        assert torch.equal(actual, value)


@pytest.mark.parametrize(
    "needed", [{"x"}, {"x", "dt", "B", "C", "z"}, {"A", "D"}, {"dt_bias"}], ids=lambda names: "+".join(sorted(names))
)
def test_only_needed_gradients_are_computed(needed: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    returned: list[int] = []

    backward = cpu_numba.backward

    def spy(*given: Any) -> list[Tensor]:
        grads = backward(*given)
        returned.append(len(grads))
        return grads

    monkeypatch.setattr(cpu_numba, "backward", spy)
    run("numba", arguments(), reverse=False, needed=needed)
    assert returned == [len(needed)]


@pytest.mark.parametrize("without", [(), OPTIONAL], ids=["all", "least"])
def test_opcheck(without: tuple[str, ...]) -> None:
    tensors = [None if t is None else t.requires_grad_() for t in arguments(1, 4, 3, 2, without).values()]
    torch.library.opcheck(library.selective_scan_op, (*tensors, True, "numba"))


def test_compiles_without_a_break() -> None:
    def function(x: Tensor, *rest: Tensor) -> Tensor:
        return selective_scan(2 * x, *rest) + 1

    tensors = [t.requires_grad_() for t in arguments(1, 5, 8, 2).values() if t is not None]
    expected = function(*tensors)
    actual = torch.compile(function, fullgraph=True, backend="aot_eager")(*tensors)
    assert torch.equal(actual, expected)
    for a, b in zip(torch.autograd.grad(actual.sum(), tensors), torch.autograd.grad(expected.sum(), tensors), strict=True):
        assert torch.equal(a, b)


def test_auto_takes_numba_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name, module in {"numba": cpu_numba, "any_device": any_device}.items():
        monkeypatch.setattr(module, "forward", lambda *a, n=name, f=module.forward: calls.append(n) or f(*a))  # type: ignore[attr-defined]
    selective_scan(**arguments())  # type: ignore[arg-type]
    selective_scan(**{k: None if t is None else t.double() for k, t in arguments().items()})  # type: ignore[arg-type]
    with use_backend("any_device"):
        selective_scan(**arguments())  # type: ignore[arg-type]
    assert calls == ["numba", "any_device", "any_device"]
    y = selective_scan(**{k: None if t is None else t.to("meta") for k, t in arguments().items()})  # type: ignore[arg-type]
    assert y.device.type == "meta"


def test_named_backend_runs_or_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"'numba' takes float32, bfloat16 and float16, got torch\.float64"):
        selective_scan(**arguments() | {"A": -torch.ones(40, 5, dtype=torch.float64)}, backend="numba")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'numba' runs on the CPU, got a tensor on meta"):
        selective_scan(**{k: None if t is None else t.to("meta") for k, t in arguments().items()}, backend="numba")  # type: ignore[arg-type]
    monkeypatch.setattr("svp.ops.backend._failure", lambda name: "ImportError: no module named numba")
    with pytest.raises(RuntimeError, match="'numba' does not work here: ImportError: no module"):
        selective_scan(**arguments(), backend="numba")  # type: ignore[arg-type]
    selective_scan(**arguments())  # type: ignore[arg-type]
