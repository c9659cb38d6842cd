"""What a model says of labelled images: features, probabilities, and from them its answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from svp.models import VisionMamba
from svp.runs.answers import Answers
from svp.runs.predict import logits_and_features

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Predictions:
    """Of every image of a split, in its order.

    Args:
        features: What enters the head, (images, embed_dim).
        probabilities: (images, classes)
        labels: True classes, (images,).
    """

    features: Array
    probabilities: Array
    labels: Integers

    def answers(self, class_names: Sequence[str], paths: Sequence[Path] = (), unreadable: Sequence[int] = ()) -> Answers:
        """The likeliest class of every image; for the arguments see `Answers`."""
        guesses, confidence = self.probabilities.argmax(axis=1), self.probabilities.max(axis=1)
        return Answers(self.labels, guesses, confidence, class_names, paths, unreadable)


@torch.no_grad()
def record_predictions(model: VisionMamba, batches: Iterable[tuple[Tensor, Tensor]]) -> Predictions:
    """Run `model`, which is in evaluation mode, on batches of (images, labels)."""
    features, probabilities, labels = [], [], []
    for images, classes in batches:
        logits, entered = logits_and_features(model, images)
        features.append(entered.cpu().double().numpy())
        probabilities.append(logits.cpu().double().softmax(dim=-1).numpy())
        labels.append(classes.cpu().numpy())
    return Predictions(np.concatenate(features), np.concatenate(probabilities), np.concatenate(labels))
