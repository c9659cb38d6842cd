"""What a model says of labelled images, and what can be read off it: confusion, the worst mistakes, calibration."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from svp.models import VisionMamba
from svp.runs.certainty import Reliability, reliability
from svp.runs.predict import logits_and_features

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

"""Bins of confidence, as in Guo et al."""


@dataclass(frozen=True)
class Predictions:
    """Of every image of a split, in its order.

    Args:
        features: What enters the head, (images, embed_dim).
        probabilities: (images, classes)
        labels: True classes, (images,).
        unreadable: True classes of further images that could not be read; they count as wrong in `top1`.
    """

    features: Array
    probabilities: Array
    labels: Integers
    unreadable: Sequence[int] = ()

    @property
    def guesses(self) -> Integers:
        """The likeliest classes, (images,)."""
        return self.probabilities.argmax(axis=1)

    @property
    def confidence(self) -> Array:
        """Their probabilities, (images,)."""
        best: Array = self.probabilities.max(axis=1)
        return best

    @property
    def top1(self) -> float:
        """Share of right guesses among all images, unreadable ones included, as ``svp eval`` counts it."""
        return int((self.guesses == self.labels).sum()) / self.total

    @property
    def total(self) -> int:
        """Number of images, unreadable ones included."""
        return len(self.labels) + len(self.unreadable)

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """Whether the guesses are right, (images,)."""
        right: npt.NDArray[np.bool_] = self.guesses == self.labels
        return right

    def confusion(self) -> Integers:
        """How many images of a class (row) were taken for which (column), (classes, classes)."""
        classes = self.probabilities.shape[1]
        pairs: Integers = np.bincount(self.labels * classes + self.guesses, minlength=classes**2)
        return pairs.reshape(classes, classes)

    def worst(self, count: int) -> Integers:
        """The wrong images that the model was surest of, surest first."""
        wrong = np.flatnonzero(self.guesses != self.labels)
        return wrong[np.argsort(-self.confidence[wrong], kind="stable")][:count]

    def reliability(self) -> Reliability:
        """Confidence against accuracy."""
        return reliability(self.confidence, self.guesses == self.labels)


@torch.no_grad()
def record_predictions(
    model: VisionMamba, batches: Iterable[tuple[Tensor, Tensor]], unreadable: Sequence[int] = ()
) -> Predictions:
    """Run `model`, which is in evaluation mode, on batches of (images, labels); `unreadable` as in ``Predictions``."""
    features, probabilities, labels = [], [], []
    for images, classes in batches:
        logits, entered = logits_and_features(model, images)
        features.append(entered.cpu().double().numpy())
        probabilities.append(logits.cpu().double().softmax(dim=-1).numpy())
        labels.append(classes.cpu().numpy())
    return Predictions(np.concatenate(features), np.concatenate(probabilities), np.concatenate(labels), unreadable)
