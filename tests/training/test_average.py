"""``--ema``: the average of what trains is scored and kept, and survives a kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import svp
from svp.training import ConfigError, TrainConfig
from svp.training.average import Average, averaged


def small_tuner() -> svp.tuners.Tuner:
    model = svp.create_model("vim_nano", num_classes=3, img_size=16, depth=2)
    return svp.tune(model, "linear")


def test_the_average_is_the_recursion_with_a_decay_that_grows() -> None:
    tuner, decay = small_tuner(), 0.7
    weight = tuner.model.head.weight
    average = Average(tuner, decay)
    expected = weight.detach().clone()
    for step in range(1, 12):
        with torch.no_grad():
            weight += torch.randn_like(weight)
        average.update(step)
        share = min(decay, 1 - step ** (-2 / 3))
        expected = share * expected + (1 - share) * weight.detach()
    torch.testing.assert_close(average.state_dict()["head.weight"], expected)


def test_the_model_holds_the_average_inside_and_its_own_values_again_after() -> None:
    tuner = small_tuner()
    average = Average(tuner, 0.9)
    own, kept = tuner.model.head.bias.detach().clone(), average.state_dict()["head.bias"].clone()
    with torch.no_grad():
        tuner.model.head.bias += 1
    with averaged(average):
        assert torch.equal(tuner.model.head.bias, kept)
    assert torch.equal(tuner.model.head.bias, own + 1)
    assert torch.equal(average.state_dict()["head.bias"], kept)


def test_a_run_keeps_the_average_and_goes_on_exactly(photos: Path, settings: dict[str, Any]) -> None:
    settings |= dict(ema=0.9, protocol="trainval", epochs=3)
    out = Path(settings["out"])
    svp.train(photos, **settings)
    whole, state = load_file(out / "adapter.safetensors"), torch.load(out / "last" / "state.pt", weights_only=True)
    assert torch.equal(whole["head.weight"], state["average"]["head.weight"])
    assert not torch.equal(whole["head.weight"], state["trained"]["head.weight"])
    assert svp.load_adapter(out).head.weight.equal(whole["head.weight"])

    settings["out"] += "-killed"

    def stop(row: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        svp.train(photos, **settings, after_epoch=stop)
    svp.train(photos, **settings, resume=True)
    resumed = load_file(Path(settings["out"]) / "adapter.safetensors")
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_without_it_nothing_is_averaged(photos: Path, settings: dict[str, Any]) -> None:
    svp.train(photos, **settings | dict(epochs=1))
    assert torch.load(Path(settings["out"]) / "last" / "state.pt", weights_only=True)["average"] is None


@pytest.mark.parametrize("ema", [0.0, 1.0, -0.5, float("nan")])
def test_the_decay_is_checked(ema: float) -> None:
    with pytest.raises(ConfigError, match="expected 0 < ema < 1"):
        TrainConfig(data="x", ema=ema)
