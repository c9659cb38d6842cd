"""``out_of_fold.csv``: what a model that was not trained on an image says of it, for every image; and how good that is.

A row per image: ``path`` below the folder of the data, ``class``, ``group`` (empty if there are none), ``fold`` from 1,
``predicted``, and ``p:NAME``, the probability of every class. An image that could not be read has no prediction.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from svp.data import ImageData
from svp.paths import write_atomically
from svp.runs.certainty import wilson
from svp.runs.result import CrossValidation, RunError
from svp.runs.scores import Scores

OUT_OF_FOLD = "out_of_fold.csv"
_COLUMNS = ("path", "class", "group", "fold", "predicted")
_RESAMPLES = 2000


@dataclass(frozen=True)
class OutOfFold:
    """Rows of the file.

    Args:
        class_names: Names of the classes.
        paths: Images, (n,).
        labels: Their true classes, (n,).
        groups: Their groups, (n,); "" where there are none.
        folds: The fold that each was held out in, (n,), from 1.
        probabilities: What was said of each, (n, classes); NaN for an image that could not be read.
    """

    class_names: tuple[str, ...]
    paths: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    groups: tuple[str, ...]
    folds: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]

    @property
    def read(self) -> npt.NDArray[np.bool_]:
        """Whether each image could be read, (n,)."""
        known: npt.NDArray[np.bool_] = ~np.isnan(self.probabilities[:, 0])
        return known

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """Whether the likeliest class of each image is its own, (n,)."""
        guesses = np.where(self.read, np.nan_to_num(self.probabilities).argmax(axis=1), -1)
        right: npt.NDArray[np.bool_] = guesses == self.labels
        return right

    def scores(self) -> Scores:
        """Scores of all images together."""
        read, k = self.read, min(5, len(self.class_names))
        labels, probabilities = self.labels[read], self.probabilities[read]
        own = probabilities[np.arange(len(labels)), labels]
        return Scores(
            labels=labels,
            guesses=np.argsort(-probabilities, axis=1, kind="stable")[:, :k],
            probabilities=probabilities,
            losses=-np.log(np.maximum(own, np.finfo(np.float32).tiny)).astype(np.float64),
            unreadable=tuple(self.labels[~read].tolist()),
        )

    def summary(self) -> CrossValidation:
        """Scores with their intervals."""
        right, numbers = self.right, np.unique(self.folds)
        each = [float(right[self.folds == number].mean()) for number in numbers]
        return CrossValidation(
            folds=len(numbers),
            n=len(right),
            top1=float(right.mean()),
            interval=interval_over_images(right, self.groups),
            fold_top1=tuple(each),
            interval_over_folds=interval_over_folds(each),
            metrics=self.scores().metrics(),
        )


def interval_over_images(right: npt.NDArray[np.bool_], groups: Sequence[str]) -> tuple[float, float]:
    """95 % interval of the share of right guesses on other images of the same kind.

    Wilson's; where images have groups, which stand or fall together, groups are drawn anew 2,000 times and the middle 95 %
    of the shares are taken.
    """
    if not any(groups):
        low, high = wilson(right.mean(), len(right))
        return float(low), float(high)
    of_group = np.unique(np.asarray(groups), return_inverse=True)[1]
    sizes, hits = np.bincount(of_group), np.bincount(of_group, weights=right)
    drawn = np.random.default_rng(0).integers(len(sizes), size=(_RESAMPLES, len(sizes)))
    shares = hits[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.quantile(shares, (0.025, 0.975))
    return float(low), float(high)


def interval_over_folds(top1: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean over K folds: mean +- t(K - 1) s sqrt(1 / K + 1 / (K - 1)), within 0 to 1.

    The second term stands for what trainings on the same images have in common.

    Source: Nadeau and Bengio, "Inference for the generalization error", Machine Learning 52 (2003), eq. 8.
    """
    from scipy.stats import t

    number = len(top1)
    half = t.ppf(0.975, number - 1) * np.std(top1, ddof=1) * np.sqrt(1 / number + 1 / (number - 1))
    mean = np.mean(top1)
    return float(max(mean - half, 0)), float(min(mean + half, 1))


def write_fold(file: Path, data: ImageData, fold: int, paths: Sequence[Path], probabilities: npt.NDArray[np.float32]) -> None:
    """Write the rows of one fold.

    Args:
        file: Where.
        data: The fold, with what it holds out as its test part.
        fold: Number of the fold.
        paths: Held-out images that were read.
        probabilities: What was said of these, (n, classes).
    """
    said = dict(zip(paths, probabilities, strict=True))
    split, names = data.test, data.class_names
    root = data.root.parent if data.root.is_file() else data.root  # of a table
    rows: list[list[object]] = []
    for index, (path, label) in enumerate(zip(split.paths, split.labels, strict=True)):
        name = path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
        group = split.groups[index] if split.groups else ""
        row = said.get(path)
        guess = "" if row is None else names[int(row.argmax())]
        values = [""] * len(names) if row is None else [f"{value:.9g}" for value in row]
        rows.append([name, names[label], group, fold, guess, *values])
    _write(file, [*_COLUMNS, *(f"p:{name}" for name in names)], rows)


def join_folds(files: Sequence[Path], file: Path) -> None:
    """Write the rows of several files into one."""
    tables = [_read(part) for part in files]
    _write(file, tables[0][0], [row for _, rows in tables for row in rows])


def read_out_of_fold(file: str | Path) -> OutOfFold:
    """Read what ``svp train --folds`` wrote: ``out_of_fold.csv``, or the run directory that holds it.

    Raises:
        RunError: There is none, or it is damaged.
    """
    path = Path(file) / OUT_OF_FOLD if Path(file).is_dir() else Path(file)
    if not path.is_file():
        raise RunError(f"{path} does not exist: it is what `svp train --folds` writes")
    header, rows = _read(path)
    names = tuple(name.removeprefix("p:") for name in header[len(_COLUMNS) :])
    number = {name: label for label, name in enumerate(names)}
    try:
        values = [[float(value or "nan") for value in row[len(_COLUMNS) :]] for row in rows]
        return OutOfFold(
            class_names=names,
            paths=tuple(row[0] for row in rows),
            labels=np.array([number[row[1]] for row in rows], dtype=np.int64),
            groups=tuple(row[2] for row in rows),
            folds=np.array([int(row[3]) for row in rows], dtype=np.int64),
            probabilities=np.array(values, dtype=np.float32).reshape(len(rows), len(names)),
        )
    except (ValueError, KeyError, IndexError) as error:
        raise RunError(f"{path} is damaged: {error!r}") from error


def _read(file: Path) -> tuple[list[str], list[list[str]]]:
    with file.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
        header, *rows = csv.reader(stream)
    return header, rows


def _write(file: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    def write(path: Path) -> None:
        with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
            csv.writer(stream).writerows([header, *rows])

    write_atomically(file, write)
