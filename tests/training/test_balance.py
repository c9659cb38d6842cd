"""Uneven classes: the loss, the order of images and the epoch that is kept."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import svp
from svp.data import Split
from svp.data.pipeline.samplers import BalancedSampler
from svp.runs import RunDirectory
from svp.training.balance import Criterion, make_criterion, warn_of_uneven_classes
from svp.training.recipes import ConfigError
from tests.training.conftest import write_photos

SIZES = (9, 3, 1)
NAMES = ("amber", "blue", "green")


@pytest.fixture
def split() -> Split:
    labels = [label for label, n in enumerate(SIZES) for _ in range(n)]
    return Split(tuple(Path(f"{i}.png") for i in range(len(labels))), tuple(labels), "made")


def test_without_balance_the_loss_is_cross_entropy(split: Split) -> None:
    logits, labels = torch.randn(5, 3), torch.tensor([0, 0, 1, 2, 0])
    plain = make_criterion("none", split, 3, 0.1, torch.device("cpu"))
    assert torch.equal(plain(logits, labels), F.cross_entropy(logits, labels, label_smoothing=0.1))
    assert plain == make_criterion("sampler", split, 3, 0.1, torch.device("cpu")) == Criterion(0.1)


def test_in_the_loss_every_class_weighs_the_same(split: Split) -> None:
    criterion = make_criterion("loss", split, 3, 0.0, torch.device("cpu"))
    logits, labels = torch.randn(len(split), 3), torch.tensor(split.labels)
    losses = F.cross_entropy(logits, labels, reduction="none")
    by_class = torch.stack([losses[labels == label].mean() for label in range(3)])
    torch.testing.assert_close(criterion(logits, labels), by_class.mean())
    mixed = F.one_hot(labels, 3).float()
    torch.testing.assert_close(criterion(logits, mixed), by_class.mean())


def test_adjusted_logits_learn_the_classes_without_their_shares(split: Split) -> None:
    """Where images tell nothing, the best logits are the shares themselves without, and all alike with adjustment."""
    criterion = make_criterion("logits", split, 3, 0.0, torch.device("cpu"))
    labels, shares = torch.tensor(split.labels), torch.tensor(SIZES) / len(split)
    alike = torch.zeros(len(split), 3, requires_grad=True)
    criterion(alike, labels).backward()
    assert alike.grad is not None
    torch.testing.assert_close(alike.grad.sum(0), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(criterion(alike, labels), F.cross_entropy(shares.log().expand(len(split), 3), labels))


def test_classes_take_turns_and_images_within_a_class(split: Split) -> None:
    sampler = BalancedSampler(split.labels, seed=3)
    orders = []
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        keys = list(sampler)
        orders.append(keys)
        assert keys == list(sampler)
        assert len(set(keys)) == len(keys) == len(split)  # an image that comes again has a key of its own
        drawn = Counter(split.labels[index] for _, index in keys)
        assert max(drawn.values()) - min(drawn.values()) <= 1
        of_blue = Counter(index for _, index in keys if split.labels[index] == 1)
        assert len(of_blue) == 3
        assert max(of_blue.values()) - min(of_blue.values()) <= 1
    assert not set(orders[0]) & set(orders[1])


@pytest.mark.parametrize(
    ("balance", "choose_by", "warns"),
    [("none", "top1", True), ("none", "macro_f1", True), ("loss", "top1", True), ("logits", "auroc", False)],
)
def test_uneven_classes_are_named_until_something_is_done(split: Split, balance: Any, choose_by: str, warns: bool) -> None:
    told = warn_of_uneven_classes(split, NAMES, balance, choose_by)
    assert (told is not None) == warns
    assert told is None or "from green with 1 training images to amber with 9" in told
    assert told is None or told.endswith("no setting makes up for so few: more images of green help most")
    even = Split(split.paths[8:11], (0, 1, 2), "even")
    assert warn_of_uneven_classes(even, NAMES, "none", "top1") is None


def test_a_calibrated_run_is_less_sure_of_itself_wherever_it_is_used(photos: Path, settings: dict[str, Any]) -> None:
    plain = svp.train(photos, **settings)
    calibrated = svp.train(photos, **settings | dict(calibrate=True, out=f"{settings['out']}-calibrated"))
    temperature = calibrated.result.temperature
    assert temperature is not None
    assert abs(temperature - 1) > 0.01
    assert calibrated.result.top1 == plain.result.top1
    with torch.no_grad():
        images = torch.randn(4, 3, 16, 16)
        ours, theirs = svp.load_adapter(calibrated.directory), svp.load_adapter(plain.directory)
        torch.testing.assert_close(ours(images) * temperature, theirs(images), rtol=1e-4, atol=1e-5)
    again = svp.evaluate(calibrated.directory, device="cpu")
    assert again.loss == pytest.approx(calibrated.result.loss)
    (calibrated.directory / "result.json").unlink()  # as if killed before it was written
    resumed = svp.train(photos, **settings | dict(calibrate=True, resume=True, out=str(calibrated.directory)))
    assert resumed.result.temperature == temperature
    with pytest.raises(ConfigError, match="calibrate needs validation images, protocol trainval has none"):
        svp.train(photos, **settings | dict(calibrate=True, protocol="trainval"))


@pytest.mark.parametrize("balance", ["sampler", "logits"])
def test_a_run_on_uneven_classes(
    balance: str, tmp_path: Path, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    photos = write_photos(tmp_path / "photos")
    for path in sorted((photos / "green").iterdir())[5:]:
        path.unlink()
    run = svp.train(photos, **settings | dict(balance=balance, choose_by="macro_f1", progress=True))
    rows = [json.loads(line) for line in (run.directory / "metrics.jsonl").read_text().splitlines()]
    best = max(rows, key=lambda row: (row["selection_value"], -row["selection_loss"]))
    assert run.result.epoch_chosen == best["epoch"] + 1
    for path in RunDirectory(run.directory).read_split("val").paths:
        held_out = tmp_path / "held_out" / path.parent.name
        held_out.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, held_out)
    on_validation = svp.evaluate(run.directory, tmp_path / "held_out", device="cpu").metrics["macro_f1"]
    assert best["selection_value"] == pytest.approx(on_validation)
    assert {row["chosen_by"] for row in rows} == {"macro_f1"}
    assert run.result.how_chosen.startswith("best macro F1 on")
    assert run.result.metrics["top1"] == run.result.top1
    assert svp.evaluate(run.directory, device="cpu").metrics == pytest.approx(run.result.metrics)
    shown = " ".join(capsys.readouterr().out.split())
    assert "classes are uneven" not in shown
    assert f"of {run.result.n_test} test images; on others of the same kind, expect" in shown
