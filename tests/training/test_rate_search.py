"""``--lr auto``: which rate is taken, what it may look at, and that it goes on after a kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import svp
from svp.runs import RunDirectory
from svp.training import ConfigError, TrainConfig, loop, outcome
from svp.training.config import default_rate
from svp.training.display import Display
from svp.training.rate_search import FACTORS, FOLDER, find_rate

RATES = [float(f"{factor * default_rate('svp'):.2g}") for factor in FACTORS]


def search(out: Path, merit: Any, **settings: Any) -> float:
    config = TrainConfig(data="x", out=str(out), lr="auto", **settings)
    out.mkdir(exist_ok=True)
    return find_rate(config, merit, Display(False), write=True)


def test_the_best_two_of_a_short_round_meet_in_a_longer_one(tmp_path: Path) -> None:
    tried: list[tuple[int, float]] = []

    def merit(config: TrainConfig) -> tuple[float, float]:
        tried.append((config.epochs, config.rate))
        assert config.resume
        best = RATES[3] if config.epochs < 5 else RATES[2]  # the longer round changes its mind
        return -abs(config.rate - best), 0.0

    assert search(tmp_path / "run", merit, epochs=20) == RATES[2]
    assert tried == [*((2, rate) for rate in RATES), (5, RATES[3]), (5, RATES[2])]
    scores = json.loads((tmp_path / "run" / FOLDER / "scores.json").read_text())
    assert scores["chosen"] == RATES[2]
    assert list(scores["candidates"]) == [f"{rate:g}" for rate in RATES]
    assert search(tmp_path / "run", None, epochs=20) == RATES[2]  # a finished search is only read


def test_a_rate_that_diverges_is_the_worst(tmp_path: Path) -> None:
    def merit(config: TrainConfig) -> tuple[float, float]:
        return (float("-inf"),) * 2 if config.rate > RATES[0] else (0.1, -2.0)

    assert search(tmp_path / "run", merit) == RATES[0]


def test_a_run_finds_its_rate_without_the_test_images_and_goes_on(
    photos: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scored = []
    score, train_shortly = outcome.score, loop._train_shortly

    def watched(*arguments: Any) -> Any:
        scored.append(arguments)
        return score(*arguments)

    calls = []

    def interrupted(config: TrainConfig, **others: Any) -> Any:
        calls.append(config.rate)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return train_shortly(config, **others)

    monkeypatch.setattr(outcome, "score", watched)
    monkeypatch.setattr(loop, "_train_shortly", interrupted)
    settings |= dict(lr="auto", epochs=2, method="linear", progress=True)
    with pytest.raises(KeyboardInterrupt):
        svp.train(photos, **settings)
    out = Path(settings["out"])
    assert len(list((out / FOLDER).iterdir())) == 3
    run = svp.train(config=svp.training.make_config({"resume": True, "out": str(out)}, out / "config.yaml"))
    assert len(scored) == 1  # the test images, once
    chosen = json.loads((out / FOLDER / "scores.json").read_text())["chosen"]
    assert run.result.peak_lr == yaml.safe_load((out / "config.yaml").read_text())["lr"] == chosen
    assert [path.name for path in (out / FOLDER).iterdir()] == ["scores.json"]
    assert len(RunDirectory(out).read_metrics()) == 2
    shown = " ".join(capsys.readouterr().out.split())
    assert "5 candidates, 7 epochs of search" in shown


def test_where_nothing_validates_there_is_nothing_to_choose_by() -> None:
    with pytest.raises(ConfigError, match="lr auto needs validation images, protocol trainval has none"):
        TrainConfig(data="x", lr="auto", protocol="trainval")
    with pytest.raises(ConfigError, match="lr is auto, which only svp train finds out"):
        _ = TrainConfig(data="x", lr="auto").rate
