"""Scores of a model that says several labels of an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from svp.runs.result import ClassScore
from svp.runs.task_scores import Outcome, ScoresWithoutClasses
from svp.tasks import MultiLabel, show_metric

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class LabelScores(ScoresWithoutClasses):
    """Outcome on one split. Shares and areas are 0 to 1; metrics that do not exist are NaN.

    An image that could not be read counts as one of which no label is said; what is computed from probabilities leaves it
    out.

    Args:
        truth: Whether an image that could be read has a label, (n, labels).
        probabilities: Theirs, (n, labels).
        thresholds: Probabilities from which labels are said to be there, (labels,).
        losses: Binary cross entropy of each image, mean over the labels, in nats, (n,).
        unreadable: Truth of the images that could not be read, (m, labels).
        late: Indices in the split of those of them that the loader found to be so.
    """

    kind = MultiLabel

    truth: Flags
    probabilities: npt.NDArray[np.float32]
    thresholds: Array
    losses: Array
    unreadable: Flags
    late: tuple[int, ...] = ()

    @classmethod
    def of(cls, outcome: Outcome) -> LabelScores:
        """The scores of what a pass over the images found."""
        task = outcome.task
        assert isinstance(task, MultiLabel)
        labels = outcome.values.shape[1]
        lost = np.array(outcome.lost, dtype=np.float64).reshape(-1, labels) > 0.5
        thresholds = task.thresholds_of(labels)
        return cls(outcome.targets > 0.5, outcome.values, thresholds, outcome.losses, lost, outcome.late)

    @property
    def loss(self) -> float:
        """Mean binary cross entropy in nats."""
        return float(self.losses.mean())

    @property
    def said(self) -> Flags:
        """Whether a label is said of an image, (n, labels)."""
        flags: Flags = self.probabilities.astype(np.float64) >= self.thresholds
        return flags

    @cached_property
    def _counts(self) -> tuple[Array, Array, Array]:
        """Of every label: images it is rightly said of, images it is said of, images that have it."""
        said = self.said
        has = self.truth.sum(axis=0) + self.unreadable.sum(axis=0)
        return (said & self.truth).sum(axis=0).astype(float), said.sum(axis=0).astype(float), has.astype(float)

    @property
    def f1(self) -> Array:
        """F1 of every label; NaN where no image has it."""
        right, said, has = self._counts
        return np.where(has > 0, 2 * right / np.maximum(said + has, 1), np.nan)

    @property
    def average_precisions(self) -> Array:
        """Average precision of every label; NaN where all or none of the images have it."""
        from sklearn.metrics import average_precision_score

        return self._each(average_precision_score)

    @property
    def mean_average_precision(self) -> float:
        """mAP: average precision, averaged over the labels that some images have and others not."""
        return _mean(self.average_precisions)

    @property
    def auroc(self) -> float:
        """Area under the ROC curve, averaged likewise."""
        from sklearn.metrics import roc_auc_score

        return _mean(self._each(roc_auc_score))

    @property
    def macro_f1(self) -> float:
        """Mean of F1 over the labels that any image has."""
        return _mean(self.f1)

    @property
    def micro_f1(self) -> float:
        """F1 of all pairs of image and label together."""
        right, said, has = (counts.sum() for counts in self._counts)
        return float(2 * right / (said + has)) if said + has else float("nan")

    @property
    def exact_match(self) -> float:
        """Share of images of which exactly the true labels are said."""
        return float((self.said == self.truth).all(axis=1).sum() / self.n)

    def per_class(self, names: Sequence[str]) -> dict[str, ClassScore]:
        right, said, has = self._counts
        precisions = self.average_precisions
        return {
            name: ClassScore(
                accuracy=float(right[i] / has[i]) if has[i] else None,
                n=int(has[i]),
                precision=float(right[i] / said[i]) if said[i] else None,
                f1=float(self.f1[i]) if has[i] else None,
                average_precision=None if np.isnan(precisions[i]) else float(precisions[i]),
                threshold=float(self.thresholds[i]),
            )
            for i, name in enumerate(names)
        }

    def rows(self) -> list[tuple[str, str]]:
        f1 = f"{show_metric('macro_f1', self.macro_f1)}, {show_metric('micro_f1', self.micro_f1)}"
        return [
            ("test mAP", f"{show_metric('mean_average_precision', self.mean_average_precision)} of {self.n} images"),
            ("macro F1, micro F1", f1),
            ("all labels right", show_metric("exact_match", self.exact_match)),
        ]

    def sentences(self, names: Sequence[str]) -> list[str]:
        low, high = self.thresholds.min(), self.thresholds.max()
        told = [f"Labels are said from their thresholds on, {low:.2f} to {high:.2f}, which adapter.json holds."]
        if not np.isnan(self.f1).all():
            worst = int(np.nanargmin(self.f1))
            has = int(self._counts[2][worst])
            told.append(f"It is worst at {names[worst]}: F1 {self.f1[worst]:.0%}, with {has} test images that have it.")
        return told

    def figures(self, names: Sequence[str]) -> dict[str, Any]:
        return {}

    def _each(self, function: Any) -> Array:
        both = np.ptp(self.truth.astype(int), axis=0) > 0
        pairs = zip(self.truth.T, self.probabilities.T, both, strict=True)
        return np.array([float(function(truth, p)) if there else np.nan for truth, p, there in pairs])


def _mean(values: Array) -> float:
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else float("nan")
