"""``--folds``: how good the adapter will be, told by models that each have not seen a part of the images.

Every fold is trained without its own images, for as many epochs as the run itself, and keeps its last one: its images choose
nothing, so what it says of them is as honest as a test. Then the run itself trains on all images in the same way. Its
score is that of the folds, or better, as it sees more images; the test images are read once, by it alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from svp.data import ImageData
from svp.data.folds import lacking_classes
from svp.runs.directory import HELD_OUT
from svp.runs.out_of_fold import OUT_OF_FOLD, join_folds, read_out_of_fold
from svp.training.config import TrainConfig
from svp.training.display import Display

FOLDER = "folds"
"""Folder of the folds' runs, in the run directory: 1, 2, ..."""


def cross_validate(
    config: TrainConfig,
    folds: Sequence[ImageData],
    train_fold: Callable[[TrainConfig, ImageData, int], None],
    display: Display,
    *,
    write: bool,
) -> None:
    """Train the folds and write ``out_of_fold.csv``. What was interrupted goes on: finished folds are not repeated.

    Args:
        config: Settings with `folds` and a resolved `out`.
        folds: What ``svp.data.folds.make_folds`` gave.
        train_fold: Trains by other settings on other images, and writes `HELD_OUT` of the fold of that number.
        display: Told how good each fold is.
        write: Whether this process writes files.
    """
    out = Path(config.out or "")
    files = []
    for number, fold in enumerate(folds, 1):
        place = out / FOLDER / str(number)
        files.append(place / HELD_OUT)
        display.say(f"fold {number} of {len(folds)}: {len(fold.train)} images to train on, {len(fold.test)} held out")
        if lacking := lacking_classes(fold):
            display.say(f"  warning: fold {number} {lacking}")
        if not files[-1].is_file():
            settings = replace(config, folds=None, out=str(place), resume=True, calibrate=False, reject=None)
            train_fold(settings, fold, number)
        display.say(f"fold {number}: {read_out_of_fold(files[-1]).right.mean():.1%} of {len(fold.test)} images")
    if write:
        join_folds(files, out / OUT_OF_FOLD)
    display.say(f"all {sum(len(fold.test) for fold in folds)} images: the adapter")
