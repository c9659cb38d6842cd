"""Additional-scan: the same as a mixer with more states, whatever else changes it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import svp
from svp.models import BidirectionalMamba, mixer
from tests.models.small import device_of, images, perturb, runnable_backends, small_vim

N, MORE = 4, 3


def shaken(**overrides: Any) -> Any:
    """A model with more states, off their start."""
    model = small_vim(**overrides)
    svp.tune(model, "additional_scan", num_states=MORE)
    perturb(model.additional_scan, amount=0.3)
    return model


@torch.no_grad()
def larger(model: Any, layer: int) -> BidirectionalMamba:
    """A mixer that has all states of its own."""
    own, added = model.layers[layer].mixer, model.additional_scan[layer]
    larger = BidirectionalMamba(own.d_model, N + MORE, dt_rank=own.dt_rank)
    state = dict(own.state_dict())
    for b, more in zip(("", "_b"), added, strict=True):
        rows, more_rows = state[f"x_proj{b}.weight"], more.x_proj.weight
        dt, B, C = rows[: own.dt_rank], rows[own.dt_rank : own.dt_rank + N], rows[own.dt_rank + N :]
        state[f"x_proj{b}.weight"] = torch.cat([dt, B, more_rows[:MORE], C, more_rows[MORE:]])
        state[f"A{b}_log"] = torch.cat([state[f"A{b}_log"], more.A_log], dim=1)
    larger.load_state_dict(state)
    return larger


@pytest.mark.parametrize("way", ["fused", "hooked", "autocast"])
@pytest.mark.parametrize("backend", runnable_backends())
def test_equals_a_mixer_with_more_states(backend: str, way: str) -> None:
    device = device_of(backend)
    model = shaken().to(device)
    expected, found = larger(model, 1).to(device), model.layers[1].mixer
    u = torch.randn(2, 9, 16, device=device)
    if way == "hooked":
        for name in ("x_proj", "x_proj_b"):
            for m in (expected, found):
                m.get_submodule(name).register_forward_hook(lambda *_: None)
    with svp.ops.use_backend(backend), torch.autocast(device, torch.bfloat16, enabled=way == "autocast"):
        outputs = expected(u), found(u)
        for output in outputs:
            output.float().square().sum().backward()
    torch.testing.assert_close(*outputs)
    loose: Any = dict(rtol=0.03, atol=0.01) if way == "autocast" else {}
    for b, more in zip(("", "_b"), model.additional_scan[1], strict=True):
        rows = getattr(expected, f"x_proj{b}").weight.grad[found.dt_rank :]
        torch.testing.assert_close(more.x_proj.weight.grad, torch.cat([rows[N : N + MORE], rows[2 * N + MORE :]]), **loose)
        torch.testing.assert_close(more.A_log.grad, getattr(expected, f"A{b}_log").grad[:, N:], **loose)


def test_runs_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    fused = mixer.bidirectional_scan
    monkeypatch.setattr(mixer, "bidirectional_scan", lambda *args: (calls.append(args[1].A.shape[1]), fused(*args))[1])
    model = shaken()
    model(images(model))
    assert calls == [N + MORE] * len(model.layers)


def test_hook_on_what_was_added_takes_effect() -> None:
    model = shaken()
    before = model(images(model))
    model.additional_scan[0][0].x_proj.register_forward_hook(lambda _, args, out: 2 * out)
    assert not torch.allclose(model(images(model)), before, atol=1e-5)


def test_initial_values() -> None:
    model = small_vim()
    svp.tune(model, "additional_scan", num_states=MORE)
    mixers = [block.mixer for block in model.layers]
    for m, (more, more_b) in zip(mixers, model.additional_scan, strict=True):
        assert (more.x_proj.weight[MORE:] == 0).all()
        assert more.x_proj.weight[:MORE].std() > 0.05
        for A_log, added in ((m.A_log, more.A_log), (m.A_b_log, more_b.A_log)):
            assert (added.diff(dim=1) > 0).all()
            assert (added > A_log.min(1, keepdim=True).values).all()
            assert (added < A_log.max(1, keepdim=True).values).all()
            # 3 new among 4 trained: 1/4, 1/2 and 3/4 of the way through them
            torch.testing.assert_close(added[:, 1], A_log.sort(dim=1).values[:, 1:3].mean(1))


def test_comes_off() -> None:
    model = shaken()
    model.tuner.detach()
    assert not any("sides" in vars(block.mixer) for block in model.layers)


@pytest.mark.parametrize(
    ("num_states", "message"),
    [
        (0, "additional_scan: num_states is 0, expected 1 or more"),
        (61, "additional_scan: num_states is 61, expected 1 to 60: the model has 4 states, and the scan takes 64"),
    ],
)
def test_option_errors(num_states: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        svp.tune(small_vim(), "additional_scan", num_states=num_states)


def test_as_many_as_the_scan_takes() -> None:
    model = small_vim()
    x = images(model)
    base = model(x)
    svp.tune(model, "additional_scan", num_states=60)
    torch.testing.assert_close(model(x), base)


@pytest.mark.parametrize("other", ["svp", "affix", "adapter", "A"])
def test_beside_other_methods_in_any_order(other: str) -> None:
    options: Any = dict(svp=dict(shared_layers=2)) if other == "svp" else {}
    first, second = small_vim().eval(), small_vim().eval()
    svp.tune(first, f"additional_scan+{other}", **options)
    perturb(nn.ParameterList(first.tuner.trainable_parameters()))
    svp.tune(second, f"{other}+additional_scan", **options).load_state_dict(first.tuner.state_dict())
    outputs = [model(images(model)) for model in (first, second)]
    torch.testing.assert_close(*outputs)
