"""Runs on images of another number of channels than three: trained, and used everywhere a run is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import svp
from svp.app.workbench import Workbench
from svp.data import DataError
from svp.export import export_run
from svp.inspection import show_gates
from svp.training import ConfigError
from tests.training.conftest import COLORS, write_photos


def write_arrays(root: Path, channels: int) -> Path:
    """Class folders of noisy arrays, all of a class with one level in every channel."""
    generator = np.random.default_rng(0)
    for level, name in enumerate(COLORS):
        (root / name).mkdir(parents=True)
        for number in range(10):
            values = generator.normal(1000 + 3000 * level, 300, size=(20, 24, channels))
            np.save(root / name / f"{number}.npy", np.clip(values, 0, 9999).astype(np.uint16))
    return root


def test_a_run_on_arrays_of_five_channels(
    tmp_path: Path, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_arrays(tmp_path / "data", 5)
    run = svp.train(
        data, channels=5, **settings | {"model": "vim_nano", "weights": "published", "epochs": 2, "progress": True}
    )
    assert "auto_augment and color_jitter are for RGB images: left out for 5 channels" in capsys.readouterr().out
    trained = svp.open_run(run.directory, "cpu")
    assert (trained.inputs.channels, trained.model.in_chans, trained.inputs.value_range[0]) == (5, 5, 0)
    assert trained.info.backbone.overrides == {"img_size": 16, "in_chans": 5}
    assert svp.evaluate(run.directory, device="cpu").top1 == run.result.top1 > 0.5
    with torch.no_grad():
        frozen, rgb = trained.model.patch_embed.proj.weight, svp.create_model("vim_nano", True).patch_embed.proj.weight
        torch.testing.assert_close(frozen, rgb[:, [0, 1, 2, 0, 1]] * (3 / 5), rtol=1e-3, atol=1e-3)
    (refused,) = svp.predict(run.directory, [next(write_photos(tmp_path / "photos", 1).rglob("*.jpg"))], device="cpu")
    assert refused.error == "has 3 channels, expected 5, as --channels says"


def test_photos_that_lack_the_channels_are_told_in_a_few_lines(
    tmp_path: Path, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    photos = write_photos(tmp_path / "photos", 10)
    same = (
        r"cannot be read, more than 5%: has 3 channels, expected 5, as --channels says \(\S+, \S+, \S+ and \d+ more\)\. Repair"
    )
    with pytest.raises(DataError, match=same + " or remove these files, or give another --channels"):
        svp.train(photos, channels=5, **settings | {"progress": True})
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.count("warning: cannot read") == 10
    assert "warning: nor 20 more: has 3 channels" in shown


@pytest.mark.exhaustive
def test_gates_app_and_export_of_five_channels(tmp_path: Path) -> None:
    image = write_arrays(tmp_path / "data", 5) / "amber" / "0.npy"
    model = svp.create_model("vim_nano", True, img_size=16, num_classes=3, in_chans=5)
    svp.tune(model, "linear")
    svp.save_adapter(model, tmp_path / "run")
    (said,) = svp.predict(tmp_path / "run", [image], device="cpu")
    assert Workbench([tmp_path / "run"], "cpu").predict(image, "run").classes == said.classes
    assert show_gates(tmp_path / "run", [image], device="cpu").is_file()
    assert export_run(tmp_path / "run", "torch", images=[image]).comparison.max_difference < 1e-4


@pytest.mark.parametrize("channels", [1, pytest.param(4, marks=pytest.mark.exhaustive)])
def test_a_run_on_photos_of_another_number_of_channels(channels: int, photos: Path, settings: dict[str, Any]) -> None:
    run = svp.train(photos, channels=channels, **settings | {"epochs": 1})  # random weights: the adapter brings the backbone
    assert svp.open_run(run.directory, "cpu").model.patch_embed.proj.weight.shape[1] == channels
    assert svp.evaluate(run.directory, device="cpu").top1 == run.result.top1


def test_settings_that_do_not_go_together(photos: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="cache is 'memory', which keeps RGB images, and channels is 1"):
        svp.train(photos, channels=1, cache="memory", **settings)
    with pytest.raises(ConfigError, match="channels is 0, expected 1 or more"):
        svp.train(photos, channels=0, **settings)
