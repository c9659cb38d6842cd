"""A linear probe on features that are computed once gives what it gives on images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import svp
from svp.cli import main
from svp.data import AugmentConfig
from svp.models import VisionMamba
from svp.runs import RunDirectory
from svp.training import TrainConfig, Workshop, make_config
from svp.training.kept_features import FeatureStore, what_varies

PLAIN: dict[str, Any] = dict(method="linear", augment="none", epochs=4)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Images that go through a backbone, batch by batch."""
    batches: list[int] = []
    forward = VisionMamba.forward_features

    def counted(self: VisionMamba, x: Tensor) -> Tensor:
        batches.append(len(x))
        return forward(self, x)

    monkeypatch.setattr(VisionMamba, "forward_features", counted)
    return batches


@pytest.fixture
def off(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    return lambda: monkeypatch.setattr(FeatureStore, "used_by", lambda self, prepared: prepared)


def trained(run: Any) -> dict[str, Tensor]:
    return load_file(run.directory / "adapter.safetensors")


@pytest.mark.parametrize(
    "more",
    [
        dict(),
        dict(ema=0.9, balance="sampler", protocol="trainval", clip_grad=1.0),
        pytest.param(dict(cache="memory", balance="loss", calibrate=True), marks=pytest.mark.exhaustive),
    ],
    ids=["plain", "average", "kept-images"],
)
def test_the_weights_are_those_of_the_ordinary_path(
    photos: Path, settings: dict[str, Any], passes: list[int], off: Callable[[], None], more: dict[str, Any]
) -> None:
    """To rounding: from the second epoch on an image is in another batch of the backbone."""
    kept = svp.train(photos, **settings | PLAIN | more)
    number = sum(passes)
    off()
    plain = svp.train(photos, **settings | PLAIN | more | dict(out=settings["out"] + "-plain"))
    assert number < (sum(passes) - number) / 2
    torch.testing.assert_close(trained(kept), trained(plain), rtol=1e-5, atol=1e-6)
    assert kept.result.top1 == plain.result.top1
    assert kept.result.epoch_chosen == plain.result.epoch_chosen
    assert kept.result.loss == pytest.approx(plain.result.loss, rel=1e-5)


def test_runs_that_decode_otherwise_share_no_features_of_training_images(
    photos: Path, settings: dict[str, Any], passes: list[int]
) -> None:
    workshop, numbers = Workshop(), []
    for decode in ("full", "full", "scaled"):
        passes.clear()
        run = svp.train(
            photos, workshop=workshop, **settings | PLAIN | dict(decode=decode, out=f"{settings['out']}-{len(numbers)}")
        )
        numbers.append(sum(passes))
    data = run.result.data
    assert numbers == [data.train + data.val + data.test, 0, data.train]


def test_the_backbone_sees_every_image_once(photos: Path, tmp_path: Path, passes: list[int]) -> None:
    """By the command, whose flag a single kind of augmentation may follow."""
    words = f"train --data {photos} --model test_vim --weights random --img-size 16 --method linear --epochs 3 --device cpu"
    plain, flipped = tmp_path / "plain", tmp_path / "flipped"
    assert main([*words.split(), "--no-augment", "--out", str(plain)]) == 0
    data = RunDirectory(plain).read_result().data
    assert sum(passes) == data.train + data.val + data.test
    assert main([*words.split(), "--no-augment", "--augment.hflip", "0.5", "--epochs", "1", "--out", str(flipped)]) == 0
    ours, theirs = (RunDirectory(place).read_settings()["augment"] for place in (plain, flipped))
    assert ours == asdict(AugmentConfig.none())
    assert theirs == ours | {"hflip": 0.5}


def test_a_killed_run_goes_on_and_ends_with_the_same_weights(photos: Path, settings: dict[str, Any]) -> None:
    whole = svp.train(photos, **settings | PLAIN)
    settings["out"] += "-killed"

    def stop(row: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        svp.train(photos, **settings | PLAIN, after_epoch=stop)
    resumed = svp.train(photos, **settings | PLAIN, resume=True)
    assert all(torch.equal(trained(resumed)[name], value) for name, value in trained(whole).items())


@pytest.mark.exhaustive
def test_the_search_for_a_learning_rate_shares_them(photos: Path, settings: dict[str, Any], passes: list[int]) -> None:
    data = svp.train(photos, **settings | PLAIN | dict(lr="auto", epochs=1)).result.data
    assert sum(passes) == data.train + data.val + data.test


@pytest.mark.exhaustive
def test_images_that_cannot_be_read_are_stood_in_for(photos: Path, settings: dict[str, Any], off: Callable[[], None]) -> None:
    (photos / "blue" / "03.jpg").write_bytes(b"no image")
    settings |= PLAIN | dict(check="none", val_fraction=0.1, test_fraction=0.1)
    kept = svp.train(photos, **settings)
    off()
    plain = svp.train(photos, **settings | dict(out=settings["out"] + "-plain"))
    assert len(kept.result.unreadable_images) == len(plain.result.unreadable_images) == 1
    torch.testing.assert_close(trained(kept), trained(plain), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (dict(), "features of 30 training images are computed once"),
        (dict(augment={}), "because of augmentation; --no-augment computes its features once"),
        (dict(method="svp"), ""),
    ],
)
def test_it_says_what_it_does(
    photos: Path, settings: dict[str, Any], capsys: pytest.CaptureFixture[str], more: dict[str, Any], said: str
) -> None:
    svp.train(photos, **settings | PLAIN | dict(epochs=1, progress=True) | more)
    out = " ".join(capsys.readouterr().out.split())
    assert said in out
    assert bool(said) == ("every epoch, because" in out or "computed once" in out)


def test_what_does_not_fit_into_memory_is_computed_anew(
    photos: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    memory = type("Memory", (), {"available": 100})()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    svp.train(photos, **settings | PLAIN | dict(epochs=1, progress=True))
    assert "features of all images take 0.0 GB of memory" in capsys.readouterr().out


def test_no_augmentation_has_a_short_name() -> None:
    config = make_config({"data": "x", "augment": "none"})
    assert not config.augment.varies
    assert what_varies(config) == []
    assert what_varies(TrainConfig(data="x")) == ["augmentation"]
    assert what_varies(replace(config, mixup=0.2, drop_path=0.1)) == ["mixup", "stochastic depth"]
    assert make_config(config.to_dict() | {"augment": {"hflip": 0.5}}).augment.varies
