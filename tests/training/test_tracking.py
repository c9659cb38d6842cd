"""Trackers get what the run directory holds, in one run of theirs even if the training was stopped and resumed."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest

import svp
from svp.errors import UnavailableError
from svp.runs import EpochRow, RunDirectory
from svp.training import ConfigError, Run
from svp.training.config_sources import make_config
from svp.training.trackers import CsvTracker


class Stop(Exception):  # noqa: N818
    pass


def stop(row: EpochRow) -> None:
    raise Stop


def stopped_and_resumed(photos: Path, settings: dict[str, Any], tracker: str, later: str) -> Run:
    """A run of two epochs that is stopped after the first one."""
    with pytest.raises(Stop):
        svp.train(photos, **settings, tracker=tracker, after_epoch=stop)
    return svp.train(photos, **settings, tracker=later, resume=True)


def wanted(run: Run, name: str) -> dict[int, float]:
    """By step, what the run directory says."""
    rows = RunDirectory(run.directory).read_metrics()
    assert len(rows) == 2
    key = {"train/loss": "train_loss", "val/loss": "selection_loss", "val/top1": "selection_top1", "lr": "lr"}[name]
    return {row.epoch + 1: getattr(row, key) for row in rows}


NAMES = ("train/loss", "val/loss", "val/top1", "lr")


def test_tensorboard_and_csv(photos: Path, settings: dict[str, Any]) -> None:
    """The second one joins when the run is resumed, and is sent the first epoch too."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = stopped_and_resumed(photos, settings, "tensorboard", "tensorboard+csv")
    events = EventAccumulator(str(run.directory / "tensorboard"))
    events.Reload()
    with (run.directory / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["step"] for row in rows] == ["1", "2"]
    for name in NAMES:
        scalars = events.Scalars(name)
        assert [event.step for event in scalars] == [1, 2]
        assert {event.step: event.value for event in scalars} == pytest.approx(wanted(run, name), rel=1e-5)
        assert {int(row["step"]): float(row[name]) for row in rows} == pytest.approx(wanted(run, name), rel=1e-6)
    assert [(event.step, event.value) for event in events.Scalars("test/top1")] == [(2, pytest.approx(run.result.top1))]
    assert [row["test/top1"] for row in rows] == ["", str(run.result.top1)]
    (told,) = (run.directory / "tensorboard").glob("*/hparams.yml")  # once, not again by the resumed run
    assert "augment.hflip" in told.read_text()
    sent = json.loads((run.directory / "trackers.json").read_text())
    assert {name: known["epochs"] for name, known in sent.items()} == {"tensorboard": 2, "csv": 2}


def test_a_csv_goes_on_with_what_it_holds(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    for values, step in (({"a": 1.5}, 1), ({"a": 2.0, "b": 3}, 2), ({"a": 4.0}, 2)):
        tracker = CsvTracker(file)
        tracker.start()
        tracker.log(values, step)
    assert file.read_text() == "step,a,b\n1,1.5,\n2,4.0,3\n"


def test_mlflow(photos: Path, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setattr(sys, "argv", ["svp"])
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    with mlflow.start_run(run_name="the caller's") as around:
        run = stopped_and_resumed(photos, settings, "mlflow", "mlflow")
        assert mlflow.active_run().info.run_id == around.info.run_id
    client = mlflow.MlflowClient()
    (experiment,) = mlflow.search_experiments(filter_string="name = 'svp'")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_name == "run"
    assert found.info.status == "FINISHED"
    assert (found.data.params["method"], found.data.params["model"]) == ("svp", "test_vim")
    assert found.data.metrics["test/top1"] == run.result.top1
    for name in NAMES:
        history = {entry.step: entry.value for entry in client.get_metric_history(found.info.run_id, name)}
        assert history == pytest.approx(wanted(run, name), rel=1e-6)


def test_one_that_fails_does_not_end_the_run(
    photos: Path, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    def in_the_way(row: EpochRow) -> None:
        file = Path(settings["out"]) / "metrics.csv"
        if file.is_file():
            file.unlink()
            file.mkdir()

    run = svp.train(photos, **settings | {"progress": True}, tracker="csv", after_epoch=in_the_way)
    said = capsys.readouterr().out
    assert said.count("tracker csv failed and is left out from here on: IsADirectoryError") == 1
    assert run.result.epochs == 2


@pytest.mark.parametrize("package", ["tensorboard", "mlflow", "wandb"])
def test_a_missing_package(photos: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UnavailableError, match=f"tracker {package} needs the package {package}: pip install {package}"):
        svp.train(photos, **settings, tracker=f"csv+{package}")
    assert not Path(settings["out"]).exists()


def test_names() -> None:
    for name in ("comet", "csv+csv", "csv,wandb"):
        with pytest.raises(ConfigError, match=r"expected one or several, joined by [+], of csv, mlflow, tensorboard, wandb"):
            make_config({"data": "photos", "tracker": name})
