"""What a method makes of a mixer's maps goes into the fused kernels, with gradients to what trains."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import svp
from svp.models import mixer
from tests.models.small import device_of, images, perturb, runnable_backends, small_vim

INNER = dict(target_modules=["x_proj", "dt_proj"], rank=3, alpha=3.0)  # a larger update ends in steps of thousands
CASES: dict[str, dict[str, Any]] = {
    "ssf": {},
    "conv1d": {},
    "lora": INNER,
    "dora": INNER,
    "lora_partial": dict(slices=["dt", "B", "C"], rank=3, alpha=3.0),
    "ssf+additional_scan": {},
    "lora+ssf": dict(lora=INNER),
    "ssf+lora": dict(lora=INNER),
    "ssf+dora": dict(dora=INNER),
    "dora+ssf": dict(dora=INNER),
    "additional_scan+ssf": {},
    "additional_scan+lora": dict(lora=INNER),
}

ROUNDINGS = 600
"""How many eps of a tensor's norm rounding may cost, in either precision.

Every number has passed through three layers and, in the scans, up to 17 steps forward and back; the magnitudes of DoRA lose
most, 180 eps at the worst, where two large terms of a gradient cancel. A wrong weight or gradient costs 1e-4 or more, a
thousand eps of float32. What is drawn is seeded, and updates are small: steps of thousands, which chance makes of a large
update, cost 2,000 eps on every path.
"""


def tuned(method: str, device: str) -> Any:
    model = small_vim()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        svp.tune(model, method, **CASES[method])
    return perturb(model, 0.2).to(device)


def logits_and_gradients(model: Any, backend: str, fused: bool) -> dict[str, Tensor]:
    """By name; op after op where hooks, which cannot say what they do to a weight, stand in every block."""
    hooked = [] if fused else [module for block in model.layers for module in (block.norm, block.mixer.conv1d)]
    handles = [module.register_forward_hook(lambda *_: None) for module in hooked]
    assert {tuple(block.mixer.unfused()) for block in model.layers} == {() if fused else ("conv1d",)}
    assert {tuple(block.unfused()) for block in model.layers} == {() if fused else ("norm",)}
    with svp.ops.use_backend(backend):
        logits = model(images(model))
    gradients = torch.autograd.grad(logits.square().sum(), list(model.tuner.trainable_parameters()))
    for handle in handles:
        handle.remove()
    return {"logits": logits, **dict(zip(model.tuner.trainable_names, gradients, strict=True))}


def relative_error(found: Tensor, exact: Tensor) -> float:
    return ((found.double() - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("method", CASES)
def test_effective_weights_are_exact(method: str) -> None:
    """In float64 what the maps amount to and the maps themselves differ by roundings alone."""
    model = tuned(method, "cpu").double()
    single, fused = (logits_and_gradients(model, "any_device", fused) for fused in (False, True))
    for name, exact in single.items():
        assert relative_error(fused[name], exact) < ROUNDINGS * torch.finfo(torch.float64).eps, name


@pytest.mark.parametrize("backend", [name for name in runnable_backends() if name not in ("auto", "reference")])
@pytest.mark.parametrize("method", CASES)
def test_fused_is_what_the_modules_compute(method: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32, against float64, either is off by roundings alone."""
    model = tuned(method, device_of(backend))
    kernel, calls = mixer.bidirectional_scan, []
    monkeypatch.setattr(mixer, "bidirectional_scan", lambda *args: (calls.append(1), kernel(*args))[1])
    single = logits_and_gradients(model, backend, fused=False)
    assert not calls
    fused = logits_and_gradients(model, backend, fused=True)
    assert len(calls) == len(model.layers)
    exact = logits_and_gradients(model.double(), "reference", fused=False)
    limit = ROUNDINGS * torch.finfo(torch.float32).eps
    for name, truth in exact.items():
        assert relative_error(single[name], truth) < limit, f"{name}, op after op"
        assert relative_error(fused[name], truth) < limit, f"{name}, fused"


def test_what_drops_its_input_is_not_fused_in_training() -> None:
    model = small_vim()
    svp.tune(model, "lora", **INNER, dropout=0.5)
    assert list(model.train().layers[0].mixer.unfused()) == ["x_proj", "dt_proj", "x_proj_b", "dt_proj_b"]
    assert model.eval().layers[0].mixer.unfused() == {}


def test_explain_says_who_gives_up_the_fused_ops() -> None:
    model = small_vim()
    svp.tune(model, "lora", **INNER, dropout=0.5)
    model.layers[1].mixer.conv1d.register_forward_hook(lambda *_: None)
    drops = "x_proj drops inputs of its update in training (dropout 0.5)"
    lines = svp.ops.explain(model.train()).splitlines()
    assert svp.ops.explain(model.pos_embed).splitlines() == lines[: -len(lines) + lines.index("fused ops in 3 of 3 Block")]
    assert "fused ops in 0 of 3 BidirectionalMamba" in lines
    assert any(line.startswith(f"  not in layers.0.mixer and 1 more: {drops}; ") for line in lines)
    assert any(line.startswith(f"  not in layers.1.mixer: conv1d has a hook on its output; {drops}; ") for line in lines)
    assert svp.ops.explain(model.eval()).splitlines()[-2:] == [
        "fused ops in 2 of 3 BidirectionalMamba",
        "  not in layers.1.mixer: conv1d has a hook on its output",
    ]
    model.layers[1].mixer.conv1d._forward_hooks.clear()
    assert svp.ops.explain(model).splitlines()[-1] == "fused ops in 3 of 3 BidirectionalMamba"


@pytest.mark.parametrize("direction", ["", "_b"])
def test_what_cannot_say_its_weight_is_named(direction: str) -> None:
    found = small_vim().layers[0].mixer
    found.get_submodule(f"dt_proj{direction}").bias = None
    found.get_submodule(f"conv1d{direction}").register_forward_pre_hook(lambda *_: None)
    setattr(found, f"x_proj{direction}", nn.Sequential(found.get_submodule(f"x_proj{direction}")))
    assert found.unfused() == {
        f"conv1d{direction}": "has a hook on its input or its gradient",
        f"x_proj{direction}": "is a Sequential, which does not say its weight",
        f"dt_proj{direction}": "has no bias",
    }
