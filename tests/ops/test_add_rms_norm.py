"""Prompts, residual and norm in one op: every backend against the definition in float64, and what is computed and kept."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from svp.ops import LinearPrompt, Prompt, Prompts, add_prompts, add_rms_norm, explain, use_backend
from svp.ops.add_rms_norm import cpu_numba
from svp.ops.add_rms_norm.library import add_rms_norm_op
from tests.ops.numba_helpers import TOLERANCES, assert_close
from tests.ops.test_numba_scan import shape_of

DEVICES = {"reference": "cpu", "numba": "cpu", "triton": "cuda" if torch.cuda.is_available() else "cpu"}
KERNELS = ["numba", "triton"] if importlib.util.find_spec("triton") else ["numba"]
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of inf and NaN in Triton's interpreter

Case = dict[str, Tensor]


def case(
    batch: int = 2, length: int = 5, d_model: int = 20, prompts: int = 2, residual: bool = True, dtype: Any = torch.float32
) -> Case:
    """Arguments by name; streams and scales in `dtype`, the residual as a model keeps it."""
    shape = (batch, length, d_model)
    tensors = dict(hidden=torch.randn(shape).to(dtype), weight=(1 + 0.3 * torch.randn(d_model)).to(dtype))
    if residual:
        tensors["residual"] = torch.randn(shape)
    for i in range(prompts):
        tensors[f"pre_activation_{i}"] = (2 * torch.randn(shape)).to(dtype)
        tensors[f"scale_{i}"] = torch.randn(d_model).to(dtype)
    if prompts:
        tensors["prompted"] = torch.arange(length) != length // 2
    return tensors


def call(backend: str, tensors: Case, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    count = sum(name.startswith("pre_activation") for name in tensors)
    terms = [Prompt(tensors[f"pre_activation_{i}"], tensors.get(f"scale_{i}")) for i in range(count)]
    prompts = Prompts(terms, tensors.get("prompted"))
    return add_rms_norm(tensors["hidden"], tensors.get("residual"), tensors["weight"], 1e-5, prompts, dtype, backend)


def run(backend: str, tensors: Case, needed: set[str] | None = None, dtype: torch.dtype | None = None) -> Case:
    """Both results, and gradients of `needed` for fixed gradients of the results."""
    device = DEVICES[backend]
    wanted = [name for name in tensors if name != "prompted" and (needed is None or name in needed)]
    leaves = {  # with the strides they have
        name: torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=device).copy_(t).requires_grad_(name in wanted)
        for name, t in tensors.items()
    }
    total, normed = call(backend, leaves, dtype)
    grads = [torch.linspace(-1, end, total.numel()).view(total.shape).bfloat16() for end in (2, 3)]  # exact in any dtype
    grads = [grad.to(result) for grad, result in zip(grads, (total, normed), strict=True)]
    of = [(result, grad) for result, grad in zip((total, normed), grads, strict=True) if result.requires_grad]
    of_leaves = torch.autograd.grad([result for result, _ in of], [leaves[name] for name in wanted], [grad for _, grad in of])
    results = {"total": total.detach(), "normed": normed.detach()} | {
        f"grad {k}": g for k, g in zip(wanted, of_leaves, strict=True)
    }
    return {name: t.cpu() for name, t in results.items()}


def check(backend: str, tensors: Case, needed: set[str] | None = None, dtype: torch.dtype | None = None) -> None:
    exact = {name: t if t.dtype == torch.bool else t.double() for name, t in tensors.items()}
    truth = run("reference", exact, needed)
    # the norm divides the rounding of the sum by its rms, which the few channels of a narrow token can make tiny
    amplified = max(1.0, 0.25 / (truth["total"].square().mean(-1) + 1e-5).sqrt().min().item())
    for name, value in run(backend, tensors, needed, dtype).items():
        source = tensors.get(name.removeprefix("grad "))
        expected = torch.float32 if name == "total" else dtype or tensors["weight"].dtype if name == "normed" else source.dtype
        assert value.dtype == expected, name
        # Triton's interpreter cuts bfloat16 off where a GPU rounds it
        cut_off = backend == "triton" and value.dtype == torch.bfloat16
        tolerance = TOLERANCES[value.dtype] * (2 if cut_off else 1)
        assert_close(value, truth[name], name, tolerance * (1 if name == "total" else amplified))


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("prompts", [0, 1, 2])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_equals_reference(backend: str, prompts: int, residual: bool, dtype: torch.dtype) -> None:
    for d_model in (16, 21):
        check(backend, case(prompts=prompts, residual=residual, dtype=dtype, d_model=d_model))


@settings(max_examples=20, deadline=None)
@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 70),
    d_model=st.integers(1, 50),
    prompts=st.integers(0, 2),
    residual=st.booleans(),
    without=st.sets(st.sampled_from(["scale_0", "scale_1", "prompted"])),
    needed=st.sets(st.sampled_from(["hidden", "residual", "weight", "pre_activation_0", "scale_1"]), min_size=1),
)
@example(1, 1, 1, 2, False, {"scale_0", "scale_1", "prompted"}, {"hidden", "scale_1"})
def test_equals_reference_anywhere(
    batch: int, length: int, d_model: int, prompts: int, residual: bool, without: set[str], needed: set[str]
) -> None:
    torch.manual_seed(0)  # the same numbers when hypothesis tries the case again
    tensors = {k: t for k, t in case(batch, length, d_model, prompts, residual).items() if k not in without}
    check("numba", tensors, needed & tensors.keys() or {"hidden"})


@pytest.mark.skipif("triton" not in KERNELS, reason="needs Triton")
@settings(max_examples=6, deadline=None)
@given(st.integers(1, 2), st.integers(1, 4), st.integers(1, 40), st.integers(0, 2), st.booleans(), st.booleans())
def test_triton_equals_reference_anywhere(
    batch: int, length: int, d_model: int, prompts: int, residual: bool, frozen: bool
) -> None:
    torch.manual_seed(0)
    tensors = case(batch, length, d_model, prompts, residual)
    check("triton", tensors, tensors.keys() - {"prompted", "weight"} if frozen else None)


@pytest.mark.parametrize("backend", KERNELS)
def test_streams_in_bfloat16_with_weights_in_float32_as_under_autocast(backend: str) -> None:
    for first_block in (True, False):  # there, the hidden stream is in float32
        tensors = case(residual=not first_block)
        for name in tensors:
            if name.startswith("pre_activation") or (name == "hidden" and not first_block):
                tensors[name] = tensors[name].bfloat16()
        check(backend, tensors, dtype=torch.bfloat16)


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_any_strides(backend: str, dtype: torch.dtype) -> None:
    tensors = case(batch=1, dtype=dtype)
    expected = run(backend, tensors)
    for spread in (lambda t: torch.stack([t, t], -1)[..., 0], lambda t: torch.cat([t, t], -1)[..., : t.shape[-1]]):
        views = {name: spread(t) for name, t in tensors.items()}
        assert not views["hidden"].is_contiguous()
        assert not views["prompted"].is_contiguous() or spread(tensors["prompted"]).is_contiguous()
        for name, value in run(backend, views).items():
            assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")], ids=str)
def test_nan_and_inf_stay_where_they_are(backend: str, dtype: torch.dtype, value: float) -> None:
    for name in ("hidden", "residual", "weight", "pre_activation_0", "scale_1"):
        tensors = case(dtype=dtype)
        tensors[name][(1,) * tensors[name].ndim] = value
        device = DEVICES[backend]
        actual = call(backend, {k: t.to(device) for k, t in tensors.items()})
        expected = call("reference", tensors)
        assert not expected[1].isfinite().all()
        for a, b in zip(actual, expected, strict=True):
            torch.testing.assert_close(a.cpu(), b, rtol=2e-2, atol=2e-2, equal_nan=True)


@pytest.mark.parametrize("backend", KERNELS)
def test_what_is_not_prompted_is_not_read(backend: str) -> None:
    tensors = case(length=5)
    expected = run(backend, tensors)
    tensors["pre_activation_0"][:, 2] = float("nan")
    for name, value in run(backend, tensors).items():
        assert torch.equal(value, expected[name]), name


def test_large_values_do_not_lose_the_sign_of_an_extreme_pre_activation() -> None:
    tensors = case(prompts=1, d_model=16)
    tensors["pre_activation_0"][:] = torch.linspace(-200, 200, 16)
    check("numba", tensors)


def test_rounding_to_bfloat16_is_pytorchs() -> None:
    tensors = case(1, 400, 16, prompts=0, residual=False, dtype=torch.bfloat16)
    tensors["hidden"] *= torch.logspace(-30, 15, 400).view(1, -1, 1)  # below, the norm is that of eps
    exact, _ = call("numba", tensors, torch.float32)
    _, rounded = call("numba", tensors)
    _, unrounded = call("numba", tensors, torch.float32)
    assert torch.equal(rounded, unrounded.bfloat16())
    assert torch.equal(exact, tensors["hidden"].float())


def test_one_and_many_threads_agree() -> None:
    tensors = case(batch=3, length=70, d_model=32)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(run("numba", tensors))
    finally:
        torch.set_num_threads(before)
    for name, value in results[0].items():
        assert torch.equal(value, results[1][name]), name


@pytest.mark.parametrize("prompts", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_output_is_written(prompts: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = case(prompts=prompts, length=66, dtype=dtype)
    clean = run("numba", tensors)
    monkeypatch.setattr(cpu_numba.torch, "empty", lambda *shape, **options: torch.full(shape_of(shape), torch.nan, **options))
    for name, actual in run("numba", tensors).items():
        assert torch.equal(actual, clean[name]), name


# what is computed and kept ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize(
    "needed",
    [{"hidden"}, {"weight"}, {"scale_1"}, {"pre_activation_0"}, {"hidden", "residual", "pre_activation_0", "scale_0"}],
    ids=lambda names: "+".join(sorted(names)),
)
def test_gradients_only_where_needed(backend: str, needed: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = case()
    expected = run(backend, tensors)
    kernels = sys.modules[f"svp.ops.add_rms_norm.{dict(numba='cpu_numba', triton='gpu_triton')[backend]}"]
    counts: list[int] = []
    backward = kernels.backward

    def count(*arguments: Any) -> list[Tensor]:
        grads = backward(*arguments)
        counts.append(len(grads))
        return grads

    monkeypatch.setattr(kernels, "backward", count)
    for name, value in run(backend, tensors, needed).items():
        assert torch.equal(value, expected[name]), f"{name} depends on what else is asked for"
    assert counts == [len(needed - {"residual"})]  # hidden and residual have one gradient


def test_a_frozen_norm_costs_no_memory_for_its_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: dict[str, tuple[int, ...]] = {}
    kernel = cpu_numba._backward

    def spy(*arguments: Any) -> None:
        sizes.update(zip(("grad", "first", "second", "weight", "scales"), (a.shape for a in arguments[-5:]), strict=True))
        kernel(*arguments)

    monkeypatch.setattr(cpu_numba, "_backward", spy)
    run("numba", case(d_model=16, prompts=1), {"hidden", "pre_activation_0", "scale_0"})
    assert sizes["weight"][0] == 0
    assert sizes["second"][0] == 0
    assert sizes["grad"] == sizes["first"] == (2 * 5 * 16,)


@pytest.mark.parametrize("backend", KERNELS)
def test_what_is_kept_for_the_backward_pass(backend: str) -> None:
    tensors = {k: t.to(DEVICES[backend]) for k, t in case().items()}
    for name in ("hidden", "residual", "pre_activation_0", "pre_activation_1", "scale_0"):
        tensors[name].requires_grad_()
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        total, _ = call(backend, tensors)
    known = {t.data_ptr() for name, t in tensors.items() if name not in ("hidden", "residual")} | {total.data_ptr()}
    assert {t.data_ptr() for t in kept} <= known
    assert len(kept) == 7  # the sum, weight, mask, pre-activations and scales


def linear_case(dtype: torch.dtype, trained: set[str]) -> tuple[Case, Case]:
    """Tensors of ``case``, and the maps that give the pre-activations: one of `hidden`, two of something narrower."""
    tensors = case(3, 7, 32, prompts=0, dtype=dtype)
    maps = dict(source=torch.randn(3, 7, 5), map_0=torch.randn(32, 32) / 6, map_1=torch.randn(32, 6), bias=torch.randn(32))
    maps |= dict(scale=torch.randn(32), first=torch.randn(6, 5), first_bias=torch.randn(6))
    maps = {name: t.to(dtype) for name, t in maps.items()}
    for name, t in (*tensors.items(), *maps.items()):
        t.requires_grad_(name in trained)
    return tensors, maps


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "frozen",
    [
        (),
        ("map_0", "scale"),
        ("hidden", "residual", "weight"),
        ("source", "map_1", "bias"),
        ("source", "first", "first_bias"),
    ],
    ids="+".join,
)
def test_recomputed_prompts_give_the_same_bits(
    backend: str, frozen: tuple[str, ...], dtype: torch.dtype, autocast: bool
) -> None:
    names = {"hidden", "residual", "weight", "source", "map_0", "map_1", "bias", "scale", "first", "first_bias"}
    names -= {*frozen}
    outcomes = []
    for recomputed in (False, True):
        torch.manual_seed(0)
        tensors, maps = linear_case(dtype, names)
        arguments = (
            (tensors["hidden"], maps["scale"], maps["map_0"], maps["bias"]),
            (maps["source"], None, maps["map_1"], None, (maps["first"], maps["first_bias"])),
        )
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            terms: list[Any] = [LinearPrompt(*given) for given in arguments]
            if not recomputed:
                terms = [Prompt(prompt.pre_activation, prompt.scale) for prompt in terms]
            prompts = Prompts(terms, torch.arange(7) != 3)
            total, normed = add_rms_norm(
                tensors["hidden"], tensors["residual"], tensors["weight"], 1e-5, prompts, None, backend
            )
        wanted = [t for t in (*tensors.values(), *maps.values()) if t.requires_grad]
        grads = [torch.linspace(-1, 2, total.numel()).view(total.shape).to(t) for t in (total, normed)]
        outcomes.append((total, normed, *torch.autograd.grad((total, normed), wanted, grads)))
    assert len(outcomes[0]) == 2 + len(names)
    for expected, actual in zip(*outcomes, strict=True):
        assert torch.equal(actual, expected)


def test_of_a_linear_prompt_only_what_its_maps_are_applied_to_is_kept() -> None:
    tensors, maps = linear_case(torch.float32, {"hidden", "source", "map_0", "map_1", "bias", "scale"})
    prompts = Prompts(
        [
            LinearPrompt(tensors["hidden"], maps["scale"], maps["map_0"], maps["bias"]),
            LinearPrompt(maps["source"], maps["scale"], maps["map_1"], None, (maps["first"], None)),
        ]
    )
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        total, _ = add_rms_norm(tensors["hidden"], None, tensors["weight"], 1e-5, prompts, None, "numba")
    known = {t.data_ptr() for t in (total, tensors["hidden"], tensors["weight"], *maps.values())}
    assert {tuple(t.shape) for t in kept if t.data_ptr() not in known} == {(7,), (3, 7, 6)}  # which tokens, and behind first


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (dict(source=torch.zeros(3, 6, 5)), r"source of prompt 0 has shape \(3, 6, 5\), expected \(3, 7, 5\)"),
        (dict(weight=torch.zeros(32, 5)), r"weight of prompt 0 has shape \(32, 5\), expected \(32, 6\)"),
        (dict(first=(torch.zeros(6, 4), None)), r"first weight of prompt 0 has shape \(6, 4\), expected \(6, 5\)"),
        (dict(first=(torch.zeros(6, 5), torch.zeros(5))), r"first bias of prompt 0 has shape \(5,\), expected \(6,\)"),
        (dict(bias=torch.zeros(31)), r"bias of prompt 0 has shape \(31,\), expected \(32,\)"),
    ],
)
def test_wrong_shapes_of_a_linear_prompt_are_named(changed: dict[str, Tensor], message: str) -> None:
    tensors, maps = linear_case(torch.float32, set())
    first = maps["first"], maps["first_bias"]
    prompt = LinearPrompt(maps["source"], maps["scale"], maps["map_1"], maps["bias"], first)._replace(**changed)
    with pytest.raises(ValueError, match=message):
        add_rms_norm(tensors["hidden"], None, tensors["weight"], prompts=Prompts([prompt]))


# PyTorch's view of the op, and the choice of a backend ------------------------------------------------------------------


def test_gradcheck_of_the_reference() -> None:
    tensors = {k: t if t.dtype == torch.bool else t.double().requires_grad_() for k, t in case(1, 3, 4).items()}
    names = [name for name in tensors if name != "prompted"]

    def function(*leaves: Tensor) -> tuple[Tensor, Tensor]:
        return call("reference", dict(zip(names, leaves, strict=True)) | {"prompted": tensors["prompted"]})

    assert torch.autograd.gradcheck(function, [tensors[name] for name in names])


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("prompts", [0, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck(backend: str, prompts: int, dtype: torch.dtype) -> None:
    tensors = {k: t.to(DEVICES[backend]) for k, t in case(1, 3, 16, prompts, residual=prompts > 0).items()}
    leaves = {k: t if t.dtype == torch.bool else t.requires_grad_() for k, t in tensors.items()}
    pre_activations = [leaves[f"pre_activation_{i}"] for i in range(prompts)]
    scales = [leaves[f"scale_{i}"] for i in range(prompts)]
    arguments = (leaves["hidden"], leaves.get("residual"), leaves["weight"], pre_activations, scales, leaves.get("prompted"))
    torch.library.opcheck(add_rms_norm_op, (*arguments, 1e-5, dtype, backend))


@pytest.mark.parametrize("backend", KERNELS)
def test_compiles_and_exports_without_a_break(backend: str) -> None:
    tensors = {k: t.to(DEVICES[backend]) for k, t in case().items()}

    class Module(torch.nn.Module):
        def forward(self, **tensors: Tensor) -> tuple[Tensor, Tensor]:
            return call(backend, tensors)

    expected = call(backend, tensors)
    compiled: Any = torch.compile(Module(), backend="aot_eager", fullgraph=True)
    exported = torch.export.export(Module(), (), dict(tensors)).module()
    for module in (compiled, exported):
        for actual, result in zip(module(**tensors), expected, strict=True):
            assert torch.equal(actual, result)


@pytest.mark.parametrize("used", [0, 1], ids=["sum", "norm"])
def test_one_result_may_stay_unused(used: int) -> None:
    tensors = case()
    grads = []
    for backend in ("numba", "reference"):
        hidden = tensors["hidden"].clone().requires_grad_()
        call(backend, tensors | {"hidden": hidden})[used].square().sum().backward()
        grads.append(hidden.grad)
    torch.testing.assert_close(*grads)


def test_auto_leaves_few_values_to_pytorch() -> None:
    def node(tensors: Case, backend: str) -> str:
        tensors["hidden"].requires_grad_()
        return type(call(backend, tensors)[0].grad_fn).__name__

    small, large = case(), case(4, 200, 256, prompts=0)
    assert "svp" not in node(small, "auto")
    assert "svp" in node(small, "numba")
    assert "svp" in node(large, "auto")
    with use_backend("numba"):
        assert "svp" in node(small, "auto")
    assert "auto takes the reference for so few values" in explain()


def test_add_prompts_by_hand() -> None:
    hidden, a = torch.randn(1, 3, 2), torch.randn(1, 3, 2)
    scale, prompted = torch.tensor([2.0, -1.0]), torch.tensor([True, False, True])
    expected = hidden + scale * a * torch.sigmoid(a) * prompted.view(1, 3, 1)
    torch.testing.assert_close(add_prompts(hidden, Prompts([Prompt(a, scale)], prompted)), expected)
    assert torch.equal(add_prompts(hidden, Prompts()), hidden)


def test_empty_batch() -> None:
    for backend in KERNELS:
        results = run(backend, case(batch=0))
        assert results["total"].shape == results["grad hidden"].shape == (0, 5, 20)
        assert torch.equal(results["grad scale_0"], torch.zeros(20))


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("hidden", (2, 20), r"hidden has shape \(2, 20\), expected \(batch, length >= 1, d_model\)"),
        ("hidden", (2, 0, 20), r"hidden has shape \(2, 0, 20\)"),
        ("residual", (1, 5, 20), r"residual has shape \(1, 5, 20\), expected \(2, 5, 20\)"),
        ("weight", (21,), r"weight has shape \(21,\), expected \(20,\)"),
        ("pre_activation_1", (2, 5, 1), r"pre_activation of prompt 1 has shape"),
        ("scale_0", (1,), r"scale of prompt 0 has shape \(1,\), expected \(20,\)"),
        ("prompted", (4,), r"prompted has shape \(4,\), expected \(5,\)"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_wrong_shapes_are_named(name: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call("auto", case() | {name: torch.zeros(shape)})


def test_other_refusals() -> None:
    tensors = case()
    with pytest.raises(ValueError, match="3 prompts, expected at most 2"):
        add_rms_norm(tensors["hidden"], None, tensors["weight"], prompts=Prompts([Prompt(tensors["hidden"])] * 3))
    with pytest.raises(ValueError, match=r"'numba' takes float32, bfloat16 and float16, got torch\.float64"):
        call("numba", {k: t.double() for k, t in tensors.items()})
