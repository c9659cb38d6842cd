"""``--lr auto`` and ``--method auto``: which candidate is left, what it may look at, and that it goes on after a kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import svp
from svp.runs import EpochRow, RunDirectory
from svp.training import ConfigError, TrainConfig, loop, make_config, outcome, runner
from svp.training.config import default_rate
from svp.training.display import Display
from svp.training.halving import FACTORS, FOLDER, METHODS, candidates, choose, merit_of, rounds

LOW, OWN, HIGH = (float(f"{factor * default_rate('svp'):.2g}") for factor in FACTORS)


def search(out: Path, merit: Any, **settings: Any) -> TrainConfig:
    config = TrainConfig(data="x", out=str(out), **settings)
    out.mkdir(exist_ok=True)
    return choose(config, merit, Display(False), write=True)


@pytest.mark.parametrize(
    ("count", "epochs", "expected"),
    [(3, 20, [(3, 5), (2, 10)]), (9, 20, [(9, 2), (5, 3), (3, 5), (2, 10)]), (3, 1, [(3, 1), (2, 1)]), (2, 8, [(2, 4)])],
)
def test_half_of_the_candidates_go_on_to_twice_the_epochs(count: int, epochs: int, expected: list[Any]) -> None:
    assert rounds(count, epochs) == expected


def test_the_better_half_goes_on_and_may_change_places(tmp_path: Path) -> None:
    tried: list[tuple[float, int]] = []

    def merit(config: TrainConfig, until: int) -> tuple[float, float]:
        tried.append((config.rate, until))
        assert config.resume
        assert config.epochs == 20  # the run itself, and no short one
        best = HIGH if until < 10 else OWN
        return -abs(config.rate - best), 0.0

    assert search(tmp_path / "run", merit, lr="auto", epochs=20, head_lr=0.1).rate == OWN
    assert tried == [*((rate, 5) for rate in (LOW, OWN, HIGH)), (HIGH, 10), (OWN, 10)]
    scores = json.loads((tmp_path / "run" / FOLDER / "scores.json").read_text())
    assert scores["chosen"] == f"svp-{OWN:g}"
    assert [list(one["scores"]) for one in scores["rounds"]][1] == [f"svp-{OWN:g}", f"svp-{HIGH:g}"]
    assert search(tmp_path / "run", None, lr="auto", epochs=20, head_lr=0.1).rate == OWN  # a finished search is only read


def test_what_diverges_is_the_worst_and_of_equals_the_lower_loss_is_better(tmp_path: Path) -> None:
    def merit(config: TrainConfig, until: int) -> tuple[float, float]:
        return (float("-inf"),) * 2 if config.rate == HIGH else (0.5, -config.rate)

    assert search(tmp_path / "run", merit, lr="auto").rate == LOW


def test_of_candidates_that_nothing_tells_apart_the_default_is_taken_and_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = TrainConfig(data="x", out=str(tmp_path), lr="auto")
    assert choose(config, lambda config, until: (-1.5, -1.5), Display(True), write=True).rate == OWN
    shown = " ".join(capsys.readouterr().out.split())
    assert (
        f"chosen: svp, lr {OWN:g}, but svp, lr {LOW:g}, has the same validation loss 1.500: nothing tells them apart" in shown
    )


def test_scores_are_written_as_they_are(tmp_path: Path) -> None:
    values = {LOW: (-3.0, -1.0), OWN: (0.25, -1.0), HIGH: (float("-inf"),) * 2}
    search(tmp_path / "run", lambda config, until: values[config.rate], lr="auto", choose_by="r2")
    scores = json.loads((tmp_path / "run" / FOLDER / "scores.json").read_text())["rounds"][0]["scores"]
    assert scores == {f"svp-{OWN:g}": 0.25, f"svp-{LOW:g}": -3.0, f"svp-{HIGH:g}": None}
    search(tmp_path / "loss", lambda config, until: (-config.rate, 0.0), lr="auto")
    scores = json.loads((tmp_path / "loss" / FOLDER / "scores.json").read_text())["rounds"][0]["scores"]
    assert scores[f"svp-{HIGH:g}"] == HIGH


def test_a_candidate_leaves_nothing_behind(photos: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    held, prepare = [], runner.prepare

    def watched(config: TrainConfig, data: Any, directory: Any, accelerator: Any, display: Any) -> Any:
        held.append(len(accelerator._models) + len(accelerator._optimizers) + len(accelerator._dataloaders))
        if len(held) == 2:
            raise KeyboardInterrupt
        return prepare(config, data, directory, accelerator, display)

    monkeypatch.setattr(runner, "prepare", watched)
    with pytest.raises(KeyboardInterrupt):
        svp.train(photos, **settings | dict(lr="auto", method="linear", epochs=1))
    assert held == [0, 0]


@pytest.mark.parametrize("choose_by", ["top1", "loss", "macro_f1"])
def test_candidates_are_compared_by_loss_or_by_the_metric_that_is_asked_for(choose_by: str) -> None:
    values = {"top1": 0.5, "loss": 1.5, "macro_f1": 0.4}
    row = EpochRow(0, 0.1, 1.0, "val", 1.5, 0.5, 1.0, chosen_by=choose_by, selection_value=values[choose_by])
    assert merit_of(row) == ((0.4 if choose_by == "macro_f1" else -1.5), -1.5)


def test_methods_are_tried_at_their_own_rates_or_at_several(tmp_path: Path) -> None:
    found = candidates(TrainConfig(data="x", method="auto"))
    assert [(one.method, one.lr, one.weight_decay) for one in found.values()] == [
        (method, default_rate(method), TrainConfig(data="x", method=method).weight_decay) for method in METHODS
    ]
    assert {one.rate for one in candidates(TrainConfig(data="x", method="auto", lr=0.02)).values()} == {0.02}
    assert len(candidates(TrainConfig(data="x", method="auto", lr="auto"))) == len(METHODS) * len(FACTORS)
    with pytest.raises(ConfigError, match="method auto takes no options, got rank"):
        make_config({"data": "x", "method": "auto", "options": {"rank": 4}})


def test_a_run_that_chooses_ends_as_the_chosen_one_would_alone(
    photos: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is interrupted in its search, reads the test images once, and no epoch of the chosen candidate is trained twice."""
    scored, epochs = [], []
    score, train_until, epoch = outcome.score, runner._train_until, loop._epoch

    def watched(*arguments: Any) -> Any:
        scored.append(arguments)
        return score(*arguments)

    def interrupted(config: TrainConfig, until: int, **others: Any) -> Any:
        if len(epochs) == 3:
            raise KeyboardInterrupt
        return train_until(config, until, **others)

    def counted(prepared: Any, number: int, *others: Any, **further: Any) -> Any:
        epochs.append((prepared.config.method, number))
        return epoch(prepared, number, *others, **further)

    monkeypatch.setattr(outcome, "score", watched)
    monkeypatch.setattr(runner, "_train_until", interrupted)
    monkeypatch.setattr(loop, "_epoch", counted)
    settings |= dict(lr=None, method="auto", epochs=4, progress=True)
    with pytest.raises(KeyboardInterrupt):
        svp.train(photos, **settings)
    out = Path(settings["out"])
    assert len(list((out / FOLDER).iterdir())) == 3
    monkeypatch.setattr(runner, "_train_until", train_until)
    run = svp.train(config=make_config({"resume": True, "out": str(out)}, out / "config.yaml"))
    assert len(scored) == 1
    assert sorted(epochs) == sorted(set(epochs))
    assert len(epochs) == 3 + 2 + 2  # one of each, one more of two, the rest of one
    saved = yaml.safe_load((out / "config.yaml").read_text())
    assert list(saved["method"]) == [run.result.method]
    assert json.loads((out / FOLDER / "scores.json").read_text())["chosen"] == f"{run.result.method}-{saved['lr']:g}"
    assert [path.name for path in (out / FOLDER).iterdir()] == ["scores.json"]
    shown = " ".join(capsys.readouterr().out.split())
    assert "choosing from 3 candidates takes 3 epochs more than one run alone" in shown
    assert f"chosen: {run.result.method}, lr {saved['lr']:g}, as its validation loss" in shown

    again = svp.train(photos, **settings | dict(resume=True))  # is finished
    assert again.result == run.result
    alone = svp.train(photos, **settings | dict(method=run.result.method, out=f"{out}-alone"))
    ours, theirs = (RunDirectory(one.directory).read_state() for one in (run, alone))
    assert ours is not None
    assert theirs is not None
    for name, value in theirs["trained"].items():
        assert torch.equal(ours["trained"][name], value), name
    assert run.result.top1 == alone.result.top1


def test_a_run_by_time_chooses_after_few_epochs_and_then_plans(photos: Path, settings: dict[str, Any]) -> None:
    run = svp.train(photos, **settings | dict(lr="auto", method="linear", minutes=0.02, epochs=500))
    rows = RunDirectory(run.directory).read_metrics()
    assert rows[0].planned_epochs == len(rows) < 500
    scores = json.loads((run.directory / FOLDER / "scores.json").read_text())
    assert [one["epochs"] for one in scores["rounds"]] == [1, 2]


def test_one_epoch_by_time_is_all_that_candidates_train(photos: Path, settings: dict[str, Any]) -> None:
    run = svp.train(photos, **settings | dict(lr="auto", method="linear", minutes=0.02, epochs=1))
    scores = json.loads((run.directory / FOLDER / "scores.json").read_text())
    assert [one["epochs"] for one in scores["rounds"]] == [1, 1]


def test_where_nothing_validates_there_is_nothing_to_choose_by() -> None:
    with pytest.raises(ConfigError, match="lr auto needs validation images, protocol trainval has none"):
        TrainConfig(data="x", lr="auto", protocol="trainval")
    with pytest.raises(ConfigError, match="method auto needs validation images, protocol paper has none"):
        TrainConfig(data="x", method="auto", protocol="paper")
    for config in (TrainConfig(data="x", lr="auto"), TrainConfig(data="x", method="auto")):
        with pytest.raises(ConfigError, match="lr is auto, which only svp train finds out"):
            _ = config.rate
