"""Runs on kept images: the same wherever they are kept, whoever reads them, and however often they are cut off."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import svp
from svp.data import CacheError
from svp.errors import InputError
from svp.runs import RunError
from svp.training.config import TrainConfig, differences
from svp.training.images import Keeper
from tests.training.conftest import write_photos


def metrics(run: svp.training.Run) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run.directory / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.endswith("seconds")} for row in rows]


def weights(run: svp.training.Run) -> dict[str, torch.Tensor]:
    return load_file(run.directory / "adapter.safetensors")


def test_memory_disk_and_workers_give_the_same_run(
    photos: Path, settings: dict[str, Any], tmp_path: Path, svp_home: Path
) -> None:
    runs = [
        svp.train(photos, **settings | options | {"out": str(tmp_path / f"run{n}")})
        for n, options in enumerate([{"cache": "memory"}, {"cache": "disk"}, {"cache": "disk", "num_workers": 2}])
    ]
    assert metrics(runs[0]) == metrics(runs[1]) == metrics(runs[2])
    for run in runs[1:]:
        assert all(torch.equal(value, weights(run)[name]) for name, value in weights(runs[0]).items())
        assert run.result.top1 == runs[0].result.top1
    assert len(list((svp_home / "cache" / "images").iterdir())) == 2  # training and selection


def test_without_augmentation_it_is_the_run_of_decoded_images(photos: Path, settings: dict[str, Any], tmp_path: Path) -> None:
    """Images that are small already, and no warps: only the crop's rounding is left, and validation is the same."""
    augment = {"auto_augment": None, "random_erasing": 0.0, "color_jitter": 0.0}
    plain, kept = (
        svp.train(photos, **settings | {"cache": cache, "augment": augment, "out": str(tmp_path / cache)})
        for cache in ("none", "memory")
    )
    assert [row["selection_loss"] for row in metrics(plain)] == pytest.approx(
        [row["selection_loss"] for row in metrics(kept)], rel=1e-2
    )


def test_a_resumed_run_ends_alike_and_keeps_its_setting(photos: Path, settings: dict[str, Any], tmp_path: Path) -> None:
    whole = svp.train(photos, **settings | {"cache": "disk", "out": str(tmp_path / "whole"), "epochs": 3})
    cut = settings | {"cache": "disk", "epochs": 3}

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("svp.training.display.Display.epoch", interrupt)  # the last thing an epoch does
        with pytest.raises(KeyboardInterrupt):
            svp.train(photos, **cut)
    with pytest.raises(RunError, match="cache: disk -> none"):
        svp.train(photos, **cut | {"cache": "none", "resume": True})
    run = svp.train(photos, **cut | {"resume": True})
    assert metrics(run) == metrics(whole)
    assert all(torch.equal(value, weights(run)[name]) for name, value in weights(whole).items())


def test_unreadable_images_are_left_out_before(tmp_path: Path, settings: dict[str, Any]) -> None:
    photos = write_photos(tmp_path / "photos", per_class=30)
    (photos / "blue" / "00.jpg").write_bytes(b"no image")
    run = svp.train(photos, **settings | {"cache": "memory", "epochs": 1})
    assert run.directory.is_dir()


def test_what_does_not_fit_stops_the_run_before_it_begins(
    photos: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(10**9))
    with pytest.raises(CacheError, match="choose --cache disk or none"):
        svp.train(photos, **settings | {"cache": "memory"})
    assert not Path(settings["out"]).exists()


def test_the_setting_is_checked_and_counts_as_a_change() -> None:
    with pytest.raises(InputError, match="cache is 'ram', expected 'none', 'memory' or 'disk'"):
        TrainConfig(data="x", cache="ram")  # type: ignore[arg-type]
    config = TrainConfig(data="x")
    assert config.cache == "none"
    assert differences(config, replace(config, cache="memory")) == ["cache: none -> memory"]


def test_images_to_train_on_alone_are_decoded_at_a_smaller_scale(
    photos: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: dict[str, int | None] = {}
    open_as_it_is = Keeper.open

    def watched(keeper: Keeper, what: str, *arguments: Any) -> Any:
        opened[what] = keeper.reader.least_side
        return open_as_it_is(keeper, what, *arguments)

    monkeypatch.setattr(Keeper, "open", watched)
    svp.train(photos, **settings | {"decode": "scaled", "epochs": 1, "method": "linear"})
    assert opened == {"training": 32, "val": None}  # 16 / sqrt(0.35 * 3 / 4) = 31.2
