"""The training loop, one for every method."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from svp.data import normalized
from svp.runs.result import EpochRow
from svp.runs.scores import score
from svp.training.average import averaged
from svp.training.kept_features import FeatureStore
from svp.training.nonfinite import check_outcome
from svp.training.plan import StepTimes, epochs_of, is_over, plan_epochs, seconds_left
from svp.training.setup import Prepared, seed_everything
from svp.training.steps import train_epoch
from svp.tuners import save_adapter
from svp.tuners.adapter_files import save_trained


def train_epochs(
    prepared: Prepared,
    features: FeatureStore,
    started: float,
    after_epoch: Callable[[EpochRow], None] | None = None,
    until: float = math.inf,
) -> tuple[list[EpochRow], int, float]:
    """Train all epochs that are left, or until so many are done.

    Args:
        prepared: The run; an interrupted one goes on after its last finished epoch.
        features: Features of the images, where only the head trains.
        started: When this process began with the run, in seconds as of ``time.time()``.
        after_epoch: Called with the row of every epoch, once it is saved.
        until: Number of epochs after which to stop early.

    Returns:
        The rows of all epochs, the epoch to keep, and when an uninterrupted run would have begun.
    """
    rows, best = _restore(prepared)
    started -= sum(row.seconds for row in rows)
    prepared.schedule.plan(epochs_of(prepared.config, rows))
    before = len(rows)
    if not is_over(prepared.config, rows, best):
        prepared = features.used_by(prepared)
    while len(rows) < until and not is_over(prepared.config, rows, best):
        best = _epoch(prepared, len(rows), rows, best, started, is_first=len(rows) == before)
        if after_epoch is not None:
            after_epoch(rows[-1])
    return rows, best, started


def _restore(prepared: Prepared) -> tuple[list[EpochRow], int]:
    """Rows of the finished epochs and the best one; loads the state that a resumed run goes on from."""
    directory, accelerator = prepared.directory, prepared.accelerator
    state = directory.read_state()
    if state is None:
        if accelerator.is_main_process:
            save_adapter(prepared.model, directory.path, prepared.data.output_names, prepared.inputs, task=prepared.task)
        return [], -1
    prepared.tuner.load_state_dict(state["trained"])
    prepared.optimizer.load_state_dict(state["optimizer"])
    if prepared.average is not None:
        prepared.average.load_state_dict(state["average"])
    rows = [EpochRow.from_dict(row) for row in state["metrics"]]
    prepared.display.say(f"resuming after epoch {len(rows)}")
    if accelerator.is_main_process:
        directory.write_metrics(rows)
    return rows, int(state["best"])


def _epoch(prepared: Prepared, epoch: int, rows: list[EpochRow], best: int, run_started: float, *, is_first: bool) -> int:
    """Train and evaluate one epoch, write everything down, return the epoch to keep so far."""
    started, accelerator = time.time(), prepared.accelerator
    # all randomness follows from (seed, epoch, process): a resumed run draws what an uninterrupted one would have
    seed_everything(prepared.config.seed, epoch, accelerator.process_index)
    training_times, scoring_times = StepTimes(), StepTimes()
    train_loss = train_epoch(prepared, epoch, training_times)
    trained = time.time()
    with averaged(prepared.average):
        batches = scoring_times.of(normalized(prepared.scored_loader, prepared.inputs))
        scores = score(prepared.wrapped, batches, accelerator, prepared.task)
        prepared.late.add(prepared.scored_loader.dataset.split, scores.late, gathered=True)  # type: ignore[attr-defined]
        check_outcome(prepared.tuner, scores.loss, epoch)  # before anything good is overwritten
        chooses = prepared.selection_split is not None
        ended = time.time()
        row = EpochRow(
            epoch=epoch,
            lr=prepared.optimizer.param_groups[0]["lr"],
            train_loss=train_loss,
            selection_split=prepared.selection_split,
            selection_loss=scores.loss if chooses else None,
            selection_top1=scores.top1 if chooses and not math.isnan(scores.top1) else None,
            chosen_by=prepared.config.choose_by,
            selection_value=scores.value(prepared.config.choose_by) if chooses else None,
            seconds=ended - started,
            training_seconds=trained - started,
            validation_seconds=ended - trained,
            warm_up_seconds=training_times.warm_up + scoring_times.warm_up if is_first else None,
        )
        test_seconds = _test_seconds(prepared, ended - trained - scoring_times.warm_up)
        if epoch == 0 and prepared.config.minutes is not None:
            row = _planned(prepared, row, ended - run_started, test_seconds)
        rows.append(row)
        better = not chooses or best < 0 or rows[-1].merit > rows[best].merit
        best = epoch if better else best
        if accelerator.is_main_process and better:
            save_trained(prepared.model, prepared.directory.path)
    if accelerator.is_main_process:
        # last, so that what a resumed run finds beside it is never behind it
        prepared.directory.write_state(
            {
                "trained": prepared.tuner.state_dict(),
                "optimizer": prepared.optimizer.state_dict(),
                "average": None if prepared.average is None else prepared.average.state_dict(),
                "metrics": [row.to_dict() for row in rows],
                "best": best,
            }
        )
        prepared.directory.write_metrics(rows)
    epochs = epochs_of(prepared.config, rows)
    prepared.display.epoch(rows[-1], epochs, seconds_left(rows, epochs, test_seconds), better and chooses)
    return best


def _test_seconds(prepared: Prepared, validation_seconds: float) -> float:
    """Seconds that scoring the test images will take, by those of the images that are scored after an epoch."""
    each = prepared.seconds_per_image
    if each is None:
        each = validation_seconds / max(len(prepared.scored_loader.dataset), 1)  # type: ignore[arg-type]
    return each * len(prepared.data.test)


def _planned(prepared: Prepared, first: EpochRow, elapsed: float, test_seconds: float) -> EpochRow:
    """The row of the first epoch with the number of epochs that fit into the time; the schedule follows it."""
    fitting = torch.tensor([plan_epochs(prepared.config, elapsed, first, test_seconds)], device=prepared.accelerator.device)
    epochs = int(prepared.accelerator.gather(fitting).min())  # the clocks of processes differ
    prepared.schedule.plan(epochs)
    return replace(first, planned_epochs=epochs)
