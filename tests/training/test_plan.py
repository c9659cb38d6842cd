"""How long a run is: by its time, by its patience, and the same after a kill."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import svp
from svp.runs import RunDirectory
from svp.training import ConfigError, TrainConfig, loop, plan
from svp.training.plan import MOST_EPOCHS, StepTimes, plan_epochs, seconds_left
from tests.runs.records import make_row


@pytest.mark.parametrize(
    ("minutes", "elapsed", "seconds", "epochs"),
    [(10, 60, 53.6, 11), (10, 60, 53.8, 10), (1, 59, 30, 1), (0.1, 600, 30, 1), (10**6, 1, 1, MOST_EPOCHS), (1, 20, 18, 3)],
)
def test_epochs_fill_the_time_and_leave_some_for_the_test(minutes: float, elapsed: float, seconds: float, epochs: int) -> None:
    """After the first epoch, epochs - 1 more and four seconds of test fit; one more does not."""
    row = make_row(seconds=seconds, training_seconds=seconds - 2, validation_seconds=2.0)
    assert plan_epochs(TrainConfig(data="x", minutes=minutes), elapsed, row, 4.0) == epochs


def test_what_only_the_first_epoch_takes_is_not_planned_for_the_others() -> None:
    row = make_row(seconds=40.0, warm_up_seconds=30.0)
    assert plan_epochs(TrainConfig(data="x", minutes=2), 60.0, row, 10.0) == 1 + 5


@pytest.mark.parametrize("finished", [1, 2, 5])
def test_the_time_left_is_within_a_fifth_from_the_first_epoch_on(finished: int) -> None:
    """Ten epochs of 10 s, of which the first compiles for 25 s, and a test of 6 s."""
    seconds = [35.0, 10.8, 9.4, 10.1, 9.9, 10.2, 9.8, 10.3, 9.7, 10.0]
    rows = [make_row(epoch=i, seconds=s, warm_up_seconds=25.0 if i == 0 else None) for i, s in enumerate(seconds)]
    truly = sum(seconds[finished:]) + 6.0
    assert seconds_left(rows[:finished], len(rows), 6.0) == pytest.approx(truly, rel=0.1)


@pytest.mark.parametrize(
    ("seconds", "images", "warm_up"),
    [
        ([5.0, 1.0, 1.1, 0.9, 1.0], [8, 8, 8, 8, 8], 4.0),
        ([5.0, 0.5], [8, 4], 4.0),  # the last batch is half as large
        ([0.8, 1.0, 1.2], [8, 8, 8], 0.0),
        ([5.0], [8], 0.0),
        ([], [], 0.0),
    ],
)
def test_warm_up_is_what_the_first_step_takes_beyond_the_others(
    seconds: list[float], images: list[int], warm_up: float
) -> None:
    times = StepTimes()
    times.seconds, times.images = seconds, images
    assert times.warm_up == pytest.approx(warm_up)


def test_steps_are_timed_with_the_reading_of_their_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 3.0, 4.0, 4.5])
    monkeypatch.setattr(plan.time, "perf_counter", lambda: next(clock))
    times = StepTimes()
    batches = [(torch.zeros(n, 1), torch.zeros(n), torch.zeros(n)) for n in (4, 4, 2)]
    assert [len(batch[0]) for batch in times.of(batches)] == [4, 4, 2] == times.images
    assert times.seconds == [3.0, 1.0, 0.5]


def test_a_run_takes_the_time_it_is_given(photos: Any, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "plan_epochs", lambda *_: 3)
    run = svp.train(photos, **settings | dict(minutes=1.5, epochs=7))
    rows = RunDirectory(run.directory).read_metrics()
    assert run.result.epochs == len(rows) == 3
    assert [row.planned_epochs for row in rows] == [3, None, None]
    assert [row.warm_up_seconds is None for row in rows] == [False, True, True]
    assert rows[0].lr == pytest.approx(settings["lr"], rel=0.4)  # the last of three steps of warm-up
    assert rows[-1].lr < settings["lr"] / 10  # a course of three epochs, not of seven


def test_there_is_always_one_epoch(photos: Any, settings: dict[str, Any]) -> None:
    run = svp.train(photos, **settings | dict(minutes=1e-4, epochs=7))
    assert run.result.epochs == 1
    assert [row.planned_epochs for row in RunDirectory(run.directory).read_metrics()] == [1]


def test_the_plan_outlives_a_kill(photos: Any, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "plan_epochs", lambda *_: 3)
    whole = svp.train(photos, **settings | dict(minutes=2.0))
    settings["out"] += "-killed"

    def stop(row: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        svp.train(photos, **settings | dict(minutes=2.0), after_epoch=stop)
    monkeypatch.setattr(loop, "plan_epochs", lambda *_: 9)
    resumed = svp.train(photos, **settings | dict(minutes=2.0, resume=True))
    assert resumed.result.epochs == 3
    assert resumed.result.top1 == whole.result.top1
    ours, theirs = (RunDirectory(run.directory).read_metrics() for run in (resumed, whole))
    assert [row.lr for row in ours] == [row.lr for row in theirs]


def test_patience_ends_a_run_that_gets_no_better(photos: Any, settings: dict[str, Any]) -> None:
    settings |= dict(lr=1.0, epochs=12, patience=2)
    run = svp.train(photos, **settings)
    rows = RunDirectory(run.directory).read_metrics()
    merits = [row.merit for row in rows]
    assert run.result.epochs == len(rows) < 12
    assert merits.index(max(merits)) == run.result.epoch_chosen - 1 == len(rows) - 3
    (run.directory / "result.json").unlink()
    again = svp.train(photos, **settings | dict(resume=True))
    assert (again.result.epochs, again.result.top1) == (run.result.epochs, run.result.top1)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (dict(minutes=0.0), "minutes is 0.0, expected a number above 0"),
        (dict(patience=0), "patience is 0, expected 1 or more"),
        (dict(patience=3, protocol="trainval"), "patience needs validation images"),
    ],
)
def test_settings_are_checked(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainConfig(data="x", **setting)
