"""What the loop promises besides its weights: settings that are honored, times, seeds, batch sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

import svp
from svp.runs import RunDirectory
from svp.runs.devices import separate_accelerate_state
from svp.training import ConfigError, Run, TrainConfig, make_config
from svp.training.nonfinite import LossOnItsWay
from svp.training.setup import scaled_lr, seed_everything
from tests.training.conftest import write_photos


@pytest.mark.parametrize("given", [{"data": "photos"}, {"epochs": 5}])
def test_a_config_beside_other_settings_is_an_error(given: dict[str, Any]) -> None:
    (name,) = given
    with pytest.raises(ConfigError, match=f"^{name} and config are given"):
        svp.train(config=TrainConfig(data="elsewhere"), **given)


def test_the_learning_rate_scales_with_the_batch_that_fits(tmp_path: Path, settings: dict[str, Any]) -> None:
    photos = write_photos(tmp_path / "few", per_class=3)
    run = svp.train(photos, **settings | dict(epochs=1, batch_size=64, lr=0.01, lr_base_size=32, method="linear"))
    assert run.result.batch_size == run.result.data.train < 64
    assert run.result.peak_lr == pytest.approx(0.01 * run.result.batch_size / 32)
    assert scaled_lr(make_config({"data": "x", "lr": 0.01}), 5) == 0.01


def test_training_time_is_without_validation(finished: Run) -> None:
    (row,) = RunDirectory(finished.directory).read_metrics()
    assert row.training_seconds is not None
    assert row.validation_seconds is not None
    assert row.validation_seconds > 0
    assert row.seconds == pytest.approx(row.training_seconds + row.validation_seconds)
    assert finished.result.training_seconds == row.training_seconds
    assert finished.result.validation_seconds == row.validation_seconds


def test_seeds_of_epochs_do_not_depend_on_the_hash_of_python() -> None:
    seed_everything(0, 1, 0)
    assert torch.initial_seed() == 3_964_924_996
    drawn = set()
    for numbers in ((0, 0, 1), (0, 1, 0), (1, 0, 0)):
        seed_everything(*numbers)
        drawn.add(torch.rand(()).item())
    assert len(drawn) == 3


def test_the_callers_accelerator_survives_a_run(photos: Path, settings: dict[str, Any]) -> None:
    with separate_accelerate_state():
        own = Accelerator(cpu=True, mixed_precision="bf16")
        svp.train(photos, **settings | {"epochs": 1, "method": "linear", "precision": "fp32"})
        assert own.mixed_precision == "bf16"
        assert own.device == torch.device("cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="only a GPU runs on its own")
def test_the_loss_arrives_without_a_stop_of_the_gpu() -> None:
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert LossOnItsWay(torch.full((), 2.5, device="cuda")).value() == 2.5
    finally:
        torch.cuda.set_sync_debug_mode("default")
