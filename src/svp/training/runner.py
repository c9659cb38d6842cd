"""A run from its settings to its result: what is left open is chosen, folds are trained, then the run itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from svp.data import ImageData
from svp.data.folds import make_folds
from svp.data.pipeline.cache import SharedPixels
from svp.data.pipeline.shared import Shared
from svp.errors import Interrupted
from svp.runs.devices import make_accelerator, separate_accelerate_state
from svp.runs.directory import RunDirectory
from svp.runs.result import EpochRow, Result
from svp.training.confidence import check_reject
from svp.training.config import TrainConfig
from svp.training.config_sources import make_config
from svp.training.display import Display
from svp.training.folds import cross_validate
from svp.training.halving import Merit, as_chosen, choose, hand_over, merit_of
from svp.training.images import open_images_of
from svp.training.kept_features import FeatureStore
from svp.training.loop import train_epochs
from svp.training.machine import reset_peak_memory
from svp.training.nonfinite import NonFiniteLossError
from svp.training.outcome import finish, write_held_out
from svp.training.recipes import ConfigError
from svp.training.setup import check_directory, claim_directory, prepare, resolve, write_settings
from svp.training.trackers import check_trackers
from svp.training.tracking import tracked


class Workshop:
    """What the runs of one process share: decoded images (with ``cache: memory``), and features where only the head trains.

    The results are those of runs that share nothing. Both take up to a quarter of the memory that is available at first.

    Args:
        processes: How many processes of this machine have a workshop, each its own part of that memory.
    """

    def __init__(self, processes: int = 1) -> None:
        self.pixels: SharedPixels = Shared(lambda pixels: pixels.nbytes, processes=processes)
        self.features = FeatureStore(between_runs=True, processes=processes)


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
    workshop: Workshop | None = None,
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
        workshop: Shared with other runs of this process, which then do not decode the same images again.
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
        return _train(config, progress, after_epoch, workshop)


def _train(
    config: TrainConfig,
    progress: bool,
    after_epoch: Callable[[EpochRow], None] | None,
    workshop: Workshop | None,
) -> Run:
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
    folds = make_folds(data, config.folds, config.seed) if config.folds else ()
    check_directory(directory, config, data)
    if directory.result_file.is_file():
        display.say(f"{directory.path} is finished already")
        return Run(directory.path, directory.read_result())
    try:
        features = workshop.features if workshop else FeatureStore()
        if config.is_open:
            config = _close(config, data, directory, accelerator, features, display)
            started += sum(row.seconds for row in directory.read_metrics())  # counted again below
        if folds:
            _train_folds(config, data, folds, directory, accelerator, display)
        prepared = prepare(config, data, directory, accelerator, display, workshop.pixels if workshop else None)
        claim_directory(prepared)
        with tracked(prepared) as tracking:
            rows, best, started = train_epochs(prepared, features, started, tracking.before(after_epoch))
            result = finish(features.tested_by(prepared), rows, best, started)
            tracking.result(result)
        return Run(directory.path, result)
    except KeyboardInterrupt as interrupt:
        raise Interrupted(directory.path) from interrupt


def _close(
    config: TrainConfig,
    data: ImageData,
    directory: RunDirectory,
    accelerator: Accelerator,
    features: FeatureStore,
    display: Display,
) -> TrainConfig:
    """Choose what the settings leave open, a method or a rate; the best candidate's epochs become the run's."""
    _begin(config, directory, accelerator)
    searched = replace(config, folds=None, protocol="validation") if config.folds else config
    seen = open_images_of(searched, accelerator) if config.folds else data
    train_until = partial(_train_until, data=seen, accelerator=accelerator, features=features)
    chosen = choose(searched, train_until, display, write=accelerator.is_main_process)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        hand_over(searched, chosen, go_on=not config.folds)
    accelerator.wait_for_everyone()
    return as_chosen(config, chosen)


def _train_folds(
    config: TrainConfig,
    data: ImageData,
    folds: Sequence[ImageData],
    directory: RunDirectory,
    accelerator: Accelerator,
    display: Display,
) -> None:
    """Every image but those of test is judged by a model that was not trained on it."""
    _begin(config, directory, accelerator)
    if accelerator.is_main_process:
        directory.write_splits(data)
    train_fold = partial(_train_fold, accelerator=accelerator, display=display)
    cross_validate(config, folds, train_fold, display, write=accelerator.is_main_process)


def _begin(config: TrainConfig, directory: RunDirectory, accelerator: Accelerator) -> None:
    """Write the settings, so that what comes before the run's own epochs can go on after an interruption."""
    accelerator.wait_for_everyone()  # all have seen the directory as it was
    if accelerator.is_main_process:
        directory.path.mkdir(parents=True, exist_ok=True)
        write_settings(config, directory)


def _train_until(config: TrainConfig, until: int, data: ImageData, accelerator: Accelerator, features: FeatureStore) -> Merit:
    """A candidate of a search, up to so many epochs, without its test; a loss that is not finite is the worst merit."""
    try:
        prepared = prepare(config, data, RunDirectory(Path(config.out or "")), accelerator, Display(False))
        claim_directory(prepared)
        rows, _, _ = train_epochs(prepared, features, time.time(), until=until)
        return merit_of(rows[until - 1])
    except NonFiniteLossError:
        return float("-inf"), float("-inf")
    finally:
        accelerator.free_memory()  # the model, the optimizer and the processes that read images


def _train_fold(config: TrainConfig, data: ImageData, fold: int, accelerator: Accelerator, display: Display) -> None:
    """A run without a result: what it says of its test images is written."""
    prepared = prepare(config, data, RunDirectory(Path(config.out or "")), accelerator, Display(False))
    prepared = replace(prepared, display=display)
    claim_directory(prepared)
    train_epochs(prepared, FeatureStore(), time.time())
    write_held_out(prepared, fold)
    accelerator.free_memory()
