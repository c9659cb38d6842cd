"""The head's own learning rate: which parameters follow which, over the whole schedule and a resume."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import svp
from svp.runs import RunDirectory
from svp.training import ConfigError, TrainConfig, make_config
from svp.training.optimizer import make_optimizer
from svp.training.schedule import Schedule

SMALL: dict[str, Any] = dict(num_classes=3, img_size=16, depth=2)


def test_the_head_alone_has_its_rate_from_warm_up_to_the_end() -> None:
    model = svp.create_model("vim_nano", **SMALL)
    svp.tune(model, "svp", shared_layers=2)
    config = TrainConfig(data="x", lr=0.01, head_lr=0.002, min_lr=0, warmup_lr=0, epochs=4)
    optimizer = make_optimizer(model, config, peak_lr=0.02)  # scaled with the batch size
    head = set(model.head.parameters())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len([*model.tuner.trainable_parameters()])
    schedule = Schedule(optimizer, config, steps_per_epoch=10)
    for epoch, step in ((0, 5), (1, 0), (3, 9)):
        schedule.set(epoch, step)
        for group in optimizer.param_groups:
            of_head = set(group["params"]) <= head
            assert of_head or not set(group["params"]) & head
            assert group["lr"] == pytest.approx(optimizer.param_groups[0]["lr"] * (0.2 if of_head else 1))
            assert all((group["weight_decay"] > 0) == (parameter.ndim > 1) for parameter in group["params"])
    assert not set(optimizer.param_groups[0]["params"]) & head  # what is shown is the method's


def test_without_it_nothing_is_apart() -> None:
    model = svp.create_model("vim_nano", **SMALL)
    svp.tune(model, "svp", shared_layers=2)
    config = TrainConfig(data="x")
    assert [group["lr"] for group in make_optimizer(model, config, 0.02).param_groups] == [0.02, 0.02]
    with pytest.raises(ConfigError, match="head_lr is 0, expected a number above 0"):
        replace(config, head_lr=0)


def test_a_run_with_a_head_rate_goes_on_to_the_same_weights(photos: Path, settings: dict[str, Any]) -> None:
    settings |= dict(head_lr=0.1)
    whole = svp.train(photos, **settings)

    def stop(_: Any) -> None:
        raise KeyboardInterrupt

    part = settings | dict(out=f"{settings['out']}-part")
    with pytest.raises(KeyboardInterrupt):
        svp.train(photos, **part, after_epoch=stop)
    saved = make_config({"resume": True, "out": part["out"]}, Path(part["out"]) / "config.yaml")
    assert saved.head_lr == 0.1
    resumed = svp.train(config=saved)
    ours, theirs = (RunDirectory(run.directory).read_state() for run in (resumed, whole))
    assert ours is not None
    assert theirs is not None
    for name, value in theirs["trained"].items():
        assert torch.equal(ours["trained"][name], value), name
