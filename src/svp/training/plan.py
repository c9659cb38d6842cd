"""How many epochs a run takes: as many as asked for, as fit into the time, or until nothing gets better."""

from __future__ import annotations

from collections.abc import Sequence

from svp.runs.result import EpochRow
from svp.training.config import TrainConfig

MOST_EPOCHS = 500
"""Epochs that are planned at most, however much time there is."""


def plan_epochs(config: TrainConfig, elapsed: float, first: EpochRow, share_of_test: float) -> int:
    """Epochs that fit into ``minutes``, the first included; at least one.

    Args:
        config: Settings with `minutes`.
        elapsed: Seconds from the start of the run to the end of its first epoch.
        first: Row of that epoch.
        share_of_test: Test images per image that is scored after an epoch: the time that the end of the run will take.
    """
    assert config.minutes is not None
    left = 60 * config.minutes - elapsed - share_of_test * (first.validation_seconds or 0.0)
    return min(1 + max(0, int(left / max(first.seconds, 1e-3))), MOST_EPOCHS)


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
