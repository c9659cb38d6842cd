"""The training loop, one for every method."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from svp.data import ImageData, normalized
from svp.errors import Interrupted
from svp.runs.devices import make_accelerator, separate_accelerate_state
from svp.runs.directory import RunDirectory
from svp.runs.result import EpochRow, Result
from svp.runs.scores import score
from svp.training.average import averaged
from svp.training.confidence import check_reject
from svp.training.config import TrainConfig, make_config
from svp.training.display import Display
from svp.training.folds import cross_validate
from svp.training.halving import Merit, as_chosen, choose, hand_over, merit_of
from svp.training.images import open_images_of
from svp.training.kept_features import FeatureStore
from svp.training.machine import reset_peak_memory
from svp.training.nonfinite import NonFiniteLossError, check_outcome
from svp.training.outcome import finish, write_held_out
from svp.training.plan import StepTimes, epochs_of, is_over, plan_epochs, seconds_left
from svp.training.recipes import ConfigError
from svp.training.setup import (
    Prepared,
    check_directory,
    claim_directory,
    prepare,
    resolve,
    seed_everything,
    write_settings,
)
from svp.training.steps import train_epoch
from svp.training.trackers import check_trackers
from svp.training.tracking import tracked
from svp.tuners import save_adapter
from svp.tuners.adapter_files import save_trained


@dataclass(frozen=True)
class Run:
    """A finished run.

    Args:
        directory: Holds the adapter, the configuration, the metrics and the curves.
        result: Contents of ``result.json``.
    """

    directory: Path
    result: Result


def train(
    data: str | Path | None = None,
    *,
    config: TrainConfig | None = None,
    progress: bool = True,
    after_epoch: Callable[[EpochRow], None] | None = None,
    **settings: Any,
) -> Run:
    """Train an adapter on a folder of images: what ``svp train`` does.

    The epoch is chosen on validation images and the test images are read once, at the end; another protocol is labelled
    in every result (see ``svp.training.protocol``). Killed at any moment, the run goes on with ``resume=True`` and ends
    with the same weights.

    Args:
        data: Folder of images, or a data set's name.
        config: All settings at once, instead of `data` and `settings`.
        progress: Show progress.
        after_epoch: Called after every epoch, once it is saved, with its line of metrics.jsonl; may raise to end the run.
        **settings: Fields of ``TrainConfig``; options of the method under ``options``.

    Returns:
        The run: its directory and its result.

    Raises:
        ConfigError, DataError, WeightsError: Bad settings, images or weights, before any work.
        RunError: The run directory holds another run.
        NonFiniteLossError: The loss became NaN or infinite.
        Interrupted: Ctrl-C was pressed after the run directory was made; names it: the run can go on from there.
    """
    if config is None:
        explicit = {name: str(value) if isinstance(value, Path) else value for name, value in settings.items()}
        config = make_config(explicit if data is None else {"data": str(data), **explicit})
    elif data is not None or settings:
        given = ", ".join((["data"] if data is not None else []) + sorted(settings))
        raise ConfigError(f"{given} and config are given: set {given} in the config, or leave the config out")
    with separate_accelerate_state():
        return _train(config, progress, after_epoch)


def _train(config: TrainConfig, progress: bool, after_epoch: Callable[[EpochRow], None] | None) -> Run:
    started = time.time()
    check_trackers(config.tracker)
    accelerator = make_accelerator(config.device, config.precision)
    reset_peak_memory(accelerator.device)
    display = Display(progress and accelerator.is_main_process)
    data = open_images_of(config, accelerator)
    config = resolve(config, data, accelerator)
    directory = RunDirectory(Path(config.out or ""))
    if config.is_open and config.resume and directory.config_file.is_file():
        config = as_chosen(config, make_config({}, directory.config_file))
    check_reject(config, len(data.train if config.folds else data.val))
    check_directory(directory, config, data)
    if directory.result_file.is_file():
        display.say(f"{directory.path} is finished already")
        return Run(directory.path, directory.read_result())
    try:
        features = FeatureStore()
        if config.is_open:
            if accelerator.is_main_process:
                directory.path.mkdir(parents=True, exist_ok=True)
                write_settings(config, directory)  # an interrupted search can go on
            searched = replace(config, folds=None, protocol="validation") if config.folds else config
            seen = open_images_of(searched, accelerator) if config.folds else data
            train_until = partial(_train_until, data=seen, accelerator=accelerator, features=features)
            chosen = choose(searched, train_until, display, write=accelerator.is_main_process)
            accelerator.wait_for_everyone()
            if accelerator.is_main_process:
                hand_over(searched, chosen, go_on=not config.folds)
            accelerator.wait_for_everyone()
            config = as_chosen(config, chosen)
            started += sum(row.seconds for row in directory.read_metrics())  # counted again below
        if config.folds:
            if accelerator.is_main_process:
                directory.path.mkdir(parents=True, exist_ok=True)
                write_settings(config, directory)  # an interrupted fold can go on
                directory.write_splits(data)
            train_fold = partial(_train_fold, accelerator=accelerator, display=display)
            cross_validate(config, data, train_fold, display, write=accelerator.is_main_process)
        prepared = prepare(config, data, directory, accelerator, display)
        claim_directory(prepared)
        with tracked(prepared) as tracking:
            rows, best, started = _train_epochs(prepared, features, started, tracking.before(after_epoch))
            result = finish(prepared, rows, best, started)
            tracking.result(result)
        return Run(directory.path, result)
    except KeyboardInterrupt as interrupt:
        raise Interrupted(directory.path) from interrupt


def _train_epochs(
    prepared: Prepared,
    features: FeatureStore,
    started: float,
    after_epoch: Callable[[EpochRow], None] | None = None,
    until: float = math.inf,
) -> tuple[list[EpochRow], int, float]:
    """All epochs that are left, `until` so many; returns the rows, the epoch to keep, and when an uninterrupted run would
    have begun."""
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


def _train_until(config: TrainConfig, until: int, data: ImageData, accelerator: Accelerator, features: FeatureStore) -> Merit:
    """A candidate of a search, up to so many epochs, without its test; a loss that is not finite is the worst merit."""
    try:
        prepared = prepare(config, data, RunDirectory(Path(config.out or "")), accelerator, Display(False))
        claim_directory(prepared)
        rows, _, _ = _train_epochs(prepared, features, time.time(), until=until)
    except NonFiniteLossError:
        return float("-inf"), float("-inf")
    return merit_of(rows[until - 1])


def _train_fold(config: TrainConfig, data: ImageData, fold: int, accelerator: Accelerator, display: Display) -> None:
    """A run without a result: what it says of its test images is written."""
    prepared = prepare(config, data, RunDirectory(Path(config.out or "")), accelerator, Display(False))
    prepared = replace(prepared, display=display)
    claim_directory(prepared)
    _train_epochs(prepared, FeatureStore(), time.time())
    write_held_out(prepared, fold)
    accelerator.free_memory()


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
