"""Several labels and numbers from training to prediction: what a run keeps, what eval and predict make of it."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import svp
from svp.cli import main
from svp.errors import InputError, Interrupted
from svp.runs import RunDirectory, open_run
from svp.runs.evaluate import evaluate
from svp.tasks import MultiLabel, Regression
from svp.tasks.multi_label import choose_thresholds
from tests.task_runs import SETTINGS, train, write


def test_thresholds_are_chosen_on_validation_images_and_kept(task_runs: Path) -> None:
    run = task_runs / "multi"
    trained = open_run(run, "cpu")
    assert isinstance(trained.info.task, MultiLabel)
    assert trained.class_names == ("bright", "warm")
    split = RunDirectory(run).read_split("val")
    answers = list(svp.predict(run, split.paths, device="cpu"))
    p = np.array([[dict(zip(a.classes, a.probabilities, strict=True))[n] for n in trained.class_names] for a in answers])
    assert trained.info.task.thresholds == pytest.approx(choose_thresholds(p, np.array(split.targets)))


def test_mean_and_spread_of_the_training_numbers_are_kept(task_runs: Path) -> None:
    run = task_runs / "regression"
    task = open_run(run, "cpu").info.task
    numbers = [target[0] for target in RunDirectory(run).read_split("train").targets]
    assert isinstance(task, Regression)
    assert (task.mean, task.std) == pytest.approx((np.mean(numbers), np.std(numbers)))
    (first, *_) = svp.predict(run, RunDirectory(run).read_split("test").paths, device="cpu")
    assert first.value is not None
    assert 50 < first.value < 250
    assert (run / "scatter.png").stat().st_size > 1000


@pytest.mark.parametrize("kind", ["multi", "regression"])
def test_eval_finds_what_training_found(task_runs: Path, kind: str) -> None:
    result = RunDirectory(task_runs / kind).read_result()
    assert (result.task, math.isnan(result.top1)) == (kind, True)
    found = evaluate(task_runs / kind, device="cpu")
    assert found.metrics == pytest.approx(result.metrics)
    assert json.loads((task_runs / kind / "result.json").read_text())["top1"] is None
    table = task_runs / {"multi": "columns.csv", "regression": "numbers.csv"}[kind]
    assert found.metrics == pytest.approx(evaluate(task_runs / kind, table, device="cpu").metrics)  # its own test images


def test_eval_finds_the_column_of_classes(task_runs: Path, tmp_path: Path) -> None:
    rows = [(str(photo), photo.parent.name) for photo in sorted((task_runs / "photos").rglob("*.jpg"))]
    table = write(tmp_path / "kinds.csv", [("path", "kind"), *rows])
    run = svp.train(table, label="kind", out=tmp_path / "run", **SETTINGS).directory
    others = [(path, kind) for path, kind in rows if path in map(str, RunDirectory(run).read_split("test").paths)]
    for name in ("kind", "label"):  # as in training, or as everywhere
        found = evaluate(run, write(tmp_path / f"{name}.csv", [("path", name), *others]), device="cpu")
        assert found.top1 == RunDirectory(run).read_result().top1


def test_columns_of_labels_train_as_joined_ones(task_runs: Path, tmp_path: Path) -> None:
    run = train(task_runs, "multi", data="columns.csv", label="bright,warm", out=str(tmp_path / "run"))
    assert RunDirectory(run).read_result().metrics == RunDirectory(task_runs / "multi").read_result().metrics


@pytest.mark.parametrize(
    ("kind", "columns"),
    [
        ("multi", ["path", "labels", "probability_bright", "probability_warm", "error"]),
        ("regression", ["path", "value", "error"]),
    ],
)
def test_predictions_as_files(task_runs: Path, kind: str, columns: list[str], tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    images = [str(task_runs / "photos" / "amber"), str(broken)]
    for form in ("csv", "json", "jsonl", "parquet"):
        assert main(["predict", str(task_runs / kind), *images, "--out", str(tmp_path / f"p.{form}"), "--device", "cpu"]) == 1
    rows = list(csv.DictReader(io.StringIO((tmp_path / "p.csv").read_text())))
    assert list(rows[0]) == columns
    assert rows[-1]["error"]
    assert not any(rows[-1][name] for name in columns[1:-1])
    records = json.loads((tmp_path / "p.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert records == lines
    if kind == "regression":
        assert float(rows[0]["value"]) == pytest.approx(records[0]["value"], rel=1e-5)
    else:
        assert rows[0]["labels"] == ";".join(records[0]["labels"])
        assert float(rows[0]["probability_warm"]) == pytest.approx(records[0]["probabilities"]["warm"], abs=1e-5)
    parquet = pytest.importorskip("pyarrow.parquet").read_table(tmp_path / "p.parquet")
    assert parquet.column_names == columns
    assert parquet[columns[-2]].to_pylist()[0] == pytest.approx(float(rows[0][columns[-2]]), rel=1e-4)


@pytest.mark.parametrize("kind", ["multi", "regression"])
def test_tables_for_people(task_runs: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(task_runs / kind), "--device", "cpu"]) == 0
    assert {"multi": "threshold", "regression": "rank correlation"}[kind] in capsys.readouterr().out
    assert main(["predict", str(task_runs / kind), str(task_runs / "photos" / "blue"), "--device", "cpu"]) == 0
    assert {"multi": "labels", "regression": "weight"}[kind] in capsys.readouterr().out


def test_a_run_that_was_stopped_ends_alike(task_runs: Path, tmp_path: Path) -> None:
    whole = train(task_runs, "regression", epochs=2, out=str(tmp_path / "whole"))

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        train(task_runs, "regression", epochs=2, out=str(tmp_path / "stopped"), after_epoch=stop)
    train(task_runs, "regression", epochs=2, out=str(tmp_path / "stopped"), resume=True)
    first, second = (RunDirectory(run).read_result() for run in (whole, tmp_path / "stopped"))
    assert first.metrics == second.metrics
    assert first.epoch_chosen == second.epoch_chosen


def test_other_numbers_are_another_run(task_runs: Path, tmp_path: Path) -> None:
    table = task_runs / "changed.csv"
    table.write_text((task_runs / "numbers.csv").read_text())
    settings = SETTINGS | dict(task="regression", label="weight", out=str(tmp_path / "run"))
    svp.train(table, **settings)
    table.write_text(table.read_text().replace("150.0", "149.0"))
    with pytest.raises(RuntimeError, match=r"the images in .* are not those the run began with"):
        svp.train(table, **settings, resume=True)


@pytest.mark.parametrize(
    ("kind", "setting", "message"),
    [
        ("multi", {"mixup": 0.2}, "mixup is 0.2, which is for one class per image; this is several labels per image"),
        ("multi", {"balance": "sampler"}, "balance is sampler, which is for one class per image"),
        ("multi", {"shots": 2}, "shots is 2, which is for one class"),
        ("multi", {"choose_by": "top1"}, "choose_by is top1.* its metrics are mean_average_precision, macro_f1"),
        ("multi", {"loss": "squared"}, "its losses are bce, asymmetric"),
        ("regression", {"calibrate": True}, "calibrate is True, which is for one class"),
        ("regression", {"reject": 0.5}, "reject is 0.5, which is for one class"),
        ("regression", {"choose_by": "macro_f1"}, "this is a number per image; its metrics are mae"),
    ],
)
def test_settings_of_other_tasks_are_refused_before_any_work(
    task_runs: Path, kind: str, setting: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        train(task_runs, kind, **setting, out=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_losses_and_metrics_can_be_chosen(task_runs: Path, tmp_path: Path) -> None:
    run = train(task_runs, "multi", loss="asymmetric", choose_by="micro_f1", out=str(tmp_path / "a"))
    assert "best micro F1 on" in RunDirectory(run).read_result().how_chosen
    run = train(task_runs, "regression", loss="smooth_l1", choose_by="r2", out=str(tmp_path / "b"))
    row = RunDirectory(run).read_metrics()[0]
    assert (row.chosen_by, row.selection_top1) == ("r2", None)
    assert row.selection_value is not None
