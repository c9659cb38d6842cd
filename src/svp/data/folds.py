"""Folds for cross-validation: every image is held out once."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np

from svp.data.splits import DataError, ImageData, Split, enumerate_some


def make_folds(data: ImageData, folds: int, seed: int = 0) -> list[ImageData]:
    """The data once per fold: the fold as its test part, the other training images to train on, nothing to choose on.

    Folds are stratified by class, and images of one group are in one fold. The test images of `data` are in none.

    Args:
        data: Images; those to train on are put into folds.
        folds: Number of folds, 2 or more.
        seed: Seeds the draw.

    Raises:
        DataError: There are fewer images, or groups, than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    pool = data.train
    units = len(set(pool.groups)) if pool.groups else len(pool)
    if units < folds:
        what = "groups" if pool.groups else "training images"
        raise DataError(f"{data.root}: {units} {what} are too few for {folds} folds; every fold needs at least one")
    labels = np.asarray(pool.labels)
    kind = StratifiedGroupKFold if pool.groups else StratifiedKFold
    groups = np.unique(np.asarray(pool.groups), return_inverse=True)[1] if pool.groups else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class of fewer images than folds is in some of them only
        try:
            cut = list(kind(folds, shuffle=True, random_state=seed % 2**32).split(labels, labels, groups))
        except ValueError as error:  # no class has as many images as there are folds
            raise DataError(f"{data.root}: {folds} folds are more than any class has images") from error
    how = "stratified" + (f", by {data.grouped_by}" if pool.groups else "")
    return [
        replace(
            data,
            train=pool.take(rest.tolist(), f"{pool.origin} without fold {number}"),
            val=Split((), (), "none: nothing is chosen in a fold"),
            test=pool.take(held_out.tolist(), f"fold {number} of {folds} of {pool.origin}, {how}, seed {seed}"),
        )
        for number, (rest, held_out) in enumerate(cut, 1)
    ]


def lacking_classes(fold: ImageData) -> str | None:
    """A line that names classes of a fold that no other fold has images of: they cannot be told."""
    known = set(fold.train.labels)
    lacking = [fold.class_names[label] for label in sorted(set(fold.test.labels) - known)]
    return f"has all images of {enumerate_some(lacking)}, which count as wrong" if lacking else None
