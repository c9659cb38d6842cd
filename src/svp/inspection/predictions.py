"""What a model says of labelled images, and what can be read off it: confusion, the worst mistakes, calibration."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from svp.models import VisionMamba
from svp.runs.predict import logits_and_features

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

BINS = 15
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

    def confusion(self) -> Integers:
        """How many images of a class (row) were taken for which (column), (classes, classes)."""
        classes = self.probabilities.shape[1]
        pairs: Integers = np.bincount(self.labels * classes + self.guesses, minlength=classes**2)
        return pairs.reshape(classes, classes)

    def worst(self, count: int) -> Integers:
        """The wrong images that the model was surest of, surest first."""
        wrong = np.flatnonzero(self.guesses != self.labels)
        return wrong[np.argsort(-self.confidence[wrong], kind="stable")][:count]

    def reliability(self, bins: int = BINS) -> Reliability:
        """Confidence against accuracy."""
        bin_of = np.minimum((self.confidence * bins).astype(np.int64), bins - 1)
        counts = np.bincount(bin_of, minlength=bins)
        total = np.maximum(counts, 1)
        accuracy = np.bincount(bin_of, weights=self.guesses == self.labels, minlength=bins) / total
        confidence = np.bincount(bin_of, weights=self.confidence, minlength=bins) / total
        return Reliability(counts, accuracy, confidence)


@dataclass(frozen=True)
class Reliability:
    """Images in equally wide bins of confidence from 0 to 1, (bins,) each.

    Args:
        counts: Images.
        accuracy: Share of right guesses; 0 in an empty bin.
        confidence: Mean confidence; 0 in an empty bin.
    """

    counts: Integers
    accuracy: Array
    confidence: Array

    @property
    def expected_calibration_error(self) -> float:
        """sum over bins of (images in bin / images) |accuracy - confidence|, 0 to 1.

        Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, arXiv:1706.04599.
        """
        return float((self.counts * np.abs(self.accuracy - self.confidence)).sum() / self.counts.sum())


@torch.no_grad()
def record_predictions(
    model: VisionMamba, batches: Iterable[tuple[Tensor, Tensor]], unreadable: Sequence[int] = ()
) -> Predictions:
    """Run `model`, which is in evaluation mode, on batches of (images, labels); `unreadable` as in ``Predictions``."""
    features, probabilities, labels = [], [], []
    for images, classes in batches:
        logits, entered = logits_and_features(model, images)
        features.append(entered.double().cpu().numpy())
        probabilities.append(logits.double().softmax(dim=-1).cpu().numpy())
        labels.append(classes.cpu().numpy())
    return Predictions(np.concatenate(features), np.concatenate(probabilities), np.concatenate(labels), unreadable)
