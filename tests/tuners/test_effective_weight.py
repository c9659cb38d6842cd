"""What a method makes of a mixer's maps goes into the fused kernels, with gradients to what trains."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import svp
from svp.models import mixer
from tests.models.small import device_of, images, perturb, runnable_backends, small_vim

INNER = dict(target_modules=["x_proj", "dt_proj"], rank=3)
CASES: dict[str, dict[str, Any]] = {
    "ssf": {},
    "conv1d": {},
    "lora": INNER,
    "dora": INNER,
    "lora_partial": dict(slices=["dt", "B", "C"], rank=3),
    "ssf+additional_scan": {},
    "lora+ssf": dict(lora=INNER),
    "ssf+lora": dict(lora=INNER),
    "ssf+dora": dict(dora=INNER),
    "dora+ssf": dict(dora=INNER),
    "additional_scan+ssf": {},
    "additional_scan+lora": dict(lora=INNER),
}


@pytest.mark.parametrize("backend", runnable_backends())
@pytest.mark.parametrize("method", CASES)
def test_fused_is_what_the_modules_compute(method: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_vim()
    tuner = svp.tune(model, method, **CASES[method])
    perturb(model, 0.2)
    model.to(device_of(backend))
    fused, calls = mixer.bidirectional_scan, []
    monkeypatch.setattr(mixer, "bidirectional_scan", lambda *args: (calls.append(1), fused(*args))[1])
    results: list[list[Tensor]] = []
    for hooked in (False, True):
        if hooked:  # a hook cannot say what it does to a weight
            for block in model.layers:
                block.mixer.conv1d.register_forward_hook(lambda *_: None)
        assert {tuple(block.mixer.unfused()) for block in model.layers} == {("conv1d",) if hooked else ()}
        with svp.ops.use_backend(backend):
            logits = model(images(model))
        results.append([logits, *torch.autograd.grad(logits.square().sum(), list(tuner.trainable_parameters()))])
        assert len(calls) == len(model.layers)
    for a, b in zip(*results, strict=True):
        assert (a - b).norm() <= 1e-3 * b.norm() + 1e-6  # float32, in another order


def test_what_drops_its_input_is_not_fused_in_training() -> None:
    model = small_vim()
    svp.tune(model, "lora", **INNER, dropout=0.5)
    assert list(model.train().layers[0].mixer.unfused()) == ["x_proj", "dt_proj", "x_proj_b", "dt_proj_b"]
    assert model.eval().layers[0].mixer.unfused() == {}
