"""What a model says of labelled images: features, probabilities, and from them its answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from svp.models import VisionMamba
from svp.runs.answers import Answers
from svp.runs.predict import logits_and_features
from svp.runs.task_scores import Outcome
from svp.tasks import SINGLE_LABEL, Target, Task

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Predictions:
    """Of every image of a split, in its order.

    Args:
        features: What enters the head, (images, embed_dim).
        probabilities: (images, classes); of numbers, the numbers, (images, 1).
        labels: True classes, (images,); of labels and numbers, the targets, (images, outputs).
        losses: Loss of each image, (images,).
    """

    features: Array
    probabilities: Array
    labels: Integers
    losses: Array = field(default_factory=lambda: np.empty(0))

    def outcome(self, task: Task, lost: Sequence[int | Target] = ()) -> Outcome:
        """The same as what a pass over the images finds for the scores of a task without classes.

        Args:
            task: What the outputs mean.
            lost: Targets of further images, which could not be read.
        """
        targets = tuple(target for target in lost if isinstance(target, tuple))
        values = self.probabilities.astype(np.float32)
        return Outcome(task, torch.from_numpy(values), values, self.labels.astype(np.float64), self.losses, targets)

    def answers(self, class_names: Sequence[str], paths: Sequence[Path] = (), unreadable: Sequence[int] = ()) -> Answers:
        """The likeliest class of every image; for the arguments see `Answers`."""
        guesses, confidence = self.probabilities.argmax(axis=1), self.probabilities.max(axis=1)
        return Answers(self.labels, guesses, confidence, class_names, paths, unreadable)


@torch.no_grad()
def record_predictions(model: VisionMamba, batches: Iterable[tuple[Tensor, Tensor]], task: Task = SINGLE_LABEL) -> Predictions:
    """Run `model`, which is in evaluation mode, on batches of (images, labels or targets).

    Args:
        model: Its outputs are those of the task.
        batches: Images on its device.
        task: What the outputs mean.
    """
    features, probabilities, labels, losses = [], [], [], []
    for images, classes in batches:
        logits, entered = logits_and_features(model, images)
        features.append(entered.cpu().double().numpy())
        probabilities.append(task.activate(logits.cpu().double()).numpy())
        losses.append(task.losses_of(logits.cpu(), classes.cpu()).double().numpy())
        labels.append(classes.cpu().numpy())
    found = [np.concatenate(parts) for parts in (features, probabilities, labels, losses)]
    return Predictions(features=found[0], probabilities=found[1], labels=found[2], losses=found[3])


@torch.no_grad()
def record_features(model: VisionMamba, batches: Iterable[Tensor]) -> Array:
    """What enters the head of `model`, which is in evaluation mode: (images, embed_dim)."""
    return np.concatenate([logits_and_features(model, images)[1].cpu().double().numpy() for images in batches])
