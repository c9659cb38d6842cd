"""``--folds``: all images are judged by models that have not seen them; the adapter has seen all."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import svp
from svp.data import DataError
from svp.runs import Result, RunDirectory
from svp.runs.out_of_fold import read_out_of_fold
from svp.training import ConfigError, Run, TrainConfig, loop
from tests.training.conftest import FAST, write_photos

FOLDED: dict[str, Any] = FAST | dict(method="linear", augment="none", folds=3, epochs=4, lr=0.05)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("folds")


@pytest.fixture(scope="module")
def photos(place: Path) -> Path:
    """Three classes of twelve images of theirs, and a group for every two images of a class: a table."""
    root = write_photos(place / "photos", per_class=12)
    rows = [(f"{path.parent.name}/{path.name}", path.parent.name, int(path.stem) // 2) for path in sorted(root.rglob("*.jpg"))]
    with (root / "photos.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "group"), *rows])
    return root / "photos.csv"


@pytest.fixture(scope="module")
def run(place: Path, photos: Path) -> Run:
    return svp.train(photos, **FOLDED | dict(out=str(place / "run"), calibrate=True))


def test_every_image_but_those_of_test_is_judged_by_a_model_that_has_not_seen_it(run: Run) -> None:
    own = RunDirectory(run.directory).read_images()
    assert own is not None
    used = {part: [image.name for image in images] for part, images in own.parts.items()}
    assert not used["val"]
    found = read_out_of_fold(run.directory)
    assert sorted(found.paths) == sorted(used["train"])
    for number in (1, 2, 3):
        fold = RunDirectory(run.directory / "folds" / str(number)).read_images()
        assert fold is not None
        held_out = {image.name for image in fold.parts["test"]}
        assert held_out == {path for path, n in zip(found.paths, found.folds, strict=True) if n == number}
        assert {image.name for image in fold.parts["train"]} == set(used["train"]) - held_out
    folds_of_group = dict(zip(found.groups, found.folds.tolist(), strict=True))
    assert all(folds_of_group[group] == n for group, n in zip(found.groups, found.folds.tolist(), strict=True))


def test_the_result_holds_the_score_of_the_folds_beside_that_of_the_test(run: Run) -> None:
    result = run.result
    crossed = result.cross_validation
    assert crossed is not None
    found = read_out_of_fold(run.directory)
    assert (crossed.folds, crossed.n, crossed.top1) == (3, len(found.paths), found.right.mean())
    assert crossed.top1 > 0.6
    assert result.protocol == "trainval"
    assert result.epochs == result.epoch_chosen == 4
    assert Result.from_dict(json.loads((run.directory / "result.json").read_text())) == result
    assert result.temperature != 1  # of what the folds say
    assert svp.load_adapter(run.directory).adapter.temperature == result.temperature


def test_the_adapter_is_that_of_a_run_on_all_images(run: Run, photos: Path, place: Path) -> None:
    """And the model of a fold can be used like any other."""
    plain = svp.train(photos, **FOLDED | dict(out=str(place / "plain"), folds=None, protocol="trainval"))
    ours, theirs = (load_file(one.directory / "adapter.safetensors") for one in (run, plain))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert plain.result.top1 == run.result.top1
    fold = svp.evaluate(run.directory / "folds" / "2", device="cpu")
    found = read_out_of_fold(run.directory)
    assert fold.top1 == found.right[found.folds == 2].mean()
    assert fold.how_chosen == "last of 4 epochs, trained on the other folds, nothing chosen"


def test_a_run_killed_in_a_fold_goes_on_there(run: Run, photos: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class KilledError(Exception):
        pass

    epoch, trained = loop._epoch, []

    def failing(prepared: Any, number: int, *others: Any, **more: Any) -> int:
        trained.append((prepared.directory.path.name, number))
        if len(trained) == 7:
            raise KilledError
        return epoch(prepared, number, *others, **more)

    settings = FOLDED | dict(out=str(place / "killed"), calibrate=True)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_epoch", failing)
        with pytest.raises(KilledError):
            svp.train(photos, **settings)
        first = (place / "killed" / "folds" / "1" / "held_out.csv").stat().st_mtime_ns
        again = svp.train(photos, **settings, resume=True)
    assert [n for name, n in trained if name == "1"] == [0, 1, 2, 3]
    assert [n for name, n in trained if name == "2"] == [0, 1, 2, 2, 3]
    assert (again.directory / "folds" / "1" / "held_out.csv").stat().st_mtime_ns == first
    files = ("out_of_fold.csv", "adapter.safetensors", "adapter.json")
    for file in files:
        assert (again.directory / file).read_bytes() == (run.directory / file).read_bytes()
    assert again.result.cross_validation == run.result.cross_validation


@pytest.mark.exhaustive
def test_the_learning_rate_is_chosen_once_before(photos: Path, place: Path) -> None:
    run = svp.train(photos, **FOLDED | dict(out=str(place / "auto"), lr="auto", folds=2, epochs=2))
    chosen = json.loads((run.directory / "search" / "scores.json").read_text())["chosen"]
    rates = {RunDirectory(run.directory / "folds" / fold).read_settings()["lr"] for fold in "12"}
    assert rates == {run.result.peak_lr} == {float(chosen.removeprefix("linear-"))}
    assert len(RunDirectory(run.directory).read_metrics()) == run.result.epochs == 2
    assert run.result.data.val == 0


def test_too_few_images_are_told_before_any_work(photos: Path, place: Path) -> None:
    with pytest.raises(DataError, match="groups are too few for 90 folds"):
        svp.train(photos, **FOLDED | dict(out=str(place / "many"), folds=90, lr="auto"))
    assert not (place / "many").exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (dict(folds=1), "folds is 1, expected 2 or more"),
        (dict(folds=3, protocol="paper"), "folds is 3, which does not go with protocol paper"),
        (dict(folds=3, minutes=2.0), "folds is 3, which does not go with minutes 2.0"),
        (dict(folds=3, patience=2), "patience needs validation images, folds 3 leaves none"),
    ],
)
def test_settings_are_checked(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainConfig(data="x", **setting)
