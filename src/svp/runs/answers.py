"""What a model answered on labelled images, what can be read off that, and the file that keeps it."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from svp.paths import write_atomically
from svp.runs.certainty import Reliability, reliability
from svp.runs.result import ClassScore, RunError

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

COLUMNS = ("path", "label", "predicted", "confidence")
"""Of the file; an image that could not be read has neither class nor confidence."""


@dataclass(frozen=True)
class Answers:
    """The likeliest class of every image. Images that could not be read count as wrong.

    Args:
        labels: True classes, (images,).
        guesses: Likeliest classes, (images,).
        confidence: Their probabilities, (images,), 0 to 1.
        class_names: Names of the classes, by label.
        paths: Files of the images; empty where they are not known.
        unreadable: True classes of further images that could not be read.
    """

    labels: Integers
    guesses: Integers
    confidence: Array
    class_names: Sequence[str]
    paths: Sequence[Path] = ()
    unreadable: Sequence[int] = ()

    @property
    def total(self) -> int:
        """Number of images, unreadable ones included."""
        return len(self.labels) + len(self.unreadable)

    @property
    def top1(self) -> float:
        """Share of right answers among all images, as ``svp eval`` counts it."""
        return int(self.right.sum()) / self.total

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """Whether the guesses are right, (images,)."""
        right: npt.NDArray[np.bool_] = self.guesses == self.labels
        return right

    def confusion(self) -> Integers:
        """How many images of a class (row) were taken for which (column), (classes, classes)."""
        classes = len(self.class_names)
        pairs: Integers = np.bincount(self.labels * classes + self.guesses, minlength=classes**2)
        return pairs.reshape(classes, classes)

    def confused(self, count: int) -> list[tuple[int, int, int]]:
        """True class, answered class and number of images of the pairs that are mixed up most, most first."""
        wrong = ~self.right
        pairs, images = np.unique(np.stack([self.labels, self.guesses], axis=1)[wrong], axis=0, return_counts=True)
        order = np.argsort(-images, kind="stable")[:count]
        return [(int(pairs[i, 0]), int(pairs[i, 1]), int(images[i])) for i in order]

    def worst(self, count: int) -> Integers:
        """Indices of the wrong answers that the model was surest of, surest first."""
        wrong = np.flatnonzero(~self.right)
        return wrong[np.argsort(-self.confidence[wrong], kind="stable")][:count]

    def reliability(self) -> Reliability:
        """Confidence against accuracy."""
        return reliability(self.confidence, self.right)

    def per_class(self) -> list[ClassScore]:
        """Score of each class, by label."""
        classes = len(self.class_names)
        lost = np.bincount(np.asarray(self.unreadable, dtype=np.int64), minlength=classes)
        images = np.bincount(self.labels, minlength=classes) + lost
        guessed = np.bincount(self.guesses, minlength=classes)
        right = np.bincount(self.labels[self.right], minlength=classes)
        return [
            ClassScore(accuracy=r / n if n else None, n=n, precision=r / g if g else None, f1=2 * r / (n + g) if n else None)
            for r, n, g in zip(right.tolist(), images.tolist(), guessed.tolist(), strict=True)
        ]


def write_answers(file: Path, answers: Answers, unreadable: Sequence[tuple[Path, int]] = ()) -> None:
    """Write a row for every image.

    Args:
        file: CSV file that is written.
        answers: With their paths.
        unreadable: Images that could not be read and their true classes.
    """
    names = answers.class_names
    rows = [
        (str(path), names[label], names[guess], f"{confidence:.6f}")
        for path, label, guess, confidence in zip(
            answers.paths, answers.labels, answers.guesses, answers.confidence.tolist(), strict=True
        )
    ]
    rows += [(str(path), names[label], "", "") for path, label in unreadable]

    def write(target: Path) -> None:
        with target.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
            csv.writer(stream).writerows([COLUMNS, *rows])

    write_atomically(file, write)


def read_answers(file: Path, class_names: Sequence[str]) -> Answers:
    """Read what `write_answers` wrote.

    Raises:
        RunError: The file is damaged, or of other classes.
    """
    label_of = {name: label for label, name in enumerate(class_names)}
    try:
        with file.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
            rows = list(csv.DictReader(stream))
        read = [row for row in rows if row["predicted"]]
        return Answers(
            labels=np.array([label_of[row["label"]] for row in read], dtype=np.int64),
            guesses=np.array([label_of[row["predicted"]] for row in read], dtype=np.int64),
            confidence=np.array([float(row["confidence"]) for row in read], dtype=np.float64),
            class_names=class_names,
            paths=tuple(Path(row["path"]) for row in read),
            unreadable=tuple(label_of[row["label"]] for row in rows if not row["predicted"]),
        )
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise RunError(f"{file} is damaged: {' '.join(str(error).split())}") from error
