"""How many epochs a run takes: as many as asked for, as fit into the time, or until nothing gets better; and the time left."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean, median

from svp.data.pipeline.loading import Batch
from svp.runs.result import EpochRow
from svp.training.config import TrainConfig

MOST_EPOCHS = 500
"""Epochs that are planned at most, however much time there is."""


class StepTimes:
    """Times of the steps of a loop over batches, the first of which may also have compiled or started something.

    Attributes:
        seconds: Time of every step, reading its batch included.
        images: Number of images of every step.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.images: list[int] = []

    def of(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches, while the time between them is taken."""
        started = time.perf_counter()
        for batch in batches:
            yield batch
            now = time.perf_counter()
            self.seconds.append(now - started)
            self.images.append(len(batch[1]))
            started = now

    @property
    def warm_up(self) -> float:
        """Seconds that the first step took beyond what the others take for as many images; 0 if there are no others."""
        if len(self.seconds) < 2:
            return 0.0
        usual = median(seconds / images for seconds, images in zip(self.seconds[1:], self.images[1:], strict=True))
        return max(0.0, self.seconds[0] - usual * self.images[0])


def steady_seconds(row: EpochRow) -> float:
    """Seconds of an epoch without what only the first epoch of a process takes."""
    return row.seconds - (row.warm_up_seconds or 0.0)


def seconds_left(rows: Sequence[EpochRow], epochs: int, test_seconds: float) -> float:
    """Seconds until the end of a run: the epochs that are left, at the mean speed of the finished ones, and the test.

    Args:
        rows: Rows of the finished epochs.
        epochs: Epochs of the whole run.
        test_seconds: Seconds that scoring the test images will take.
    """
    return fmean(map(steady_seconds, rows)) * (epochs - len(rows)) + test_seconds


def plan_epochs(config: TrainConfig, elapsed: float, first: EpochRow, test_seconds: float) -> int:
    """Epochs that fit into ``minutes``, the first included; at least one.

    Args:
        config: Settings with `minutes`.
        elapsed: Seconds from the start of the run to the end of its first epoch.
        first: Row of that epoch.
        test_seconds: Seconds that scoring the test images will take at the end of the run.
    """
    assert config.minutes is not None
    left = 60 * config.minutes - elapsed - test_seconds
    return min(1 + max(0, int(left / max(steady_seconds(first), 1e-3))), MOST_EPOCHS)


def epochs_of(config: TrainConfig, rows: Sequence[EpochRow]) -> int:
    """Epochs of a run that has got as far as `rows`."""
    planned = rows[0].planned_epochs if rows else None
    return config.epochs if planned is None else planned


def is_over(config: TrainConfig, rows: Sequence[EpochRow], best: int) -> bool:
    """Whether there is nothing left to train.

    Args:
        config: Settings.
        rows: Rows of the finished epochs.
        best: The one that is kept so far, counted from 0.
    """
    if len(rows) >= epochs_of(config, rows):
        return True
    return config.patience is not None and bool(rows) and len(rows) - 1 - best >= config.patience
