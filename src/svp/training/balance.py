"""What is done about classes with very different numbers of images.

balance    what it changes
none       nothing: every image counts the same
loss       an image of a class of n_c images weighs 1 / n_c in the loss
sampler    every class is drawn as often as any other; its images take turns
logits     the log of each class's share of the training images is added to its logit, in training alone: what the model
           learns is free of the share (Menon et al., ICLR 2021, arXiv:2007.07314, eq. 10 with tau = 1)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from svp.data import Split

Balance = Literal["none", "loss", "sampler", "logits"]

UNEVEN = 3.0
"""Ratio of the largest to the smallest class from which classes count as uneven."""

FEW = 10
"""Training images below which a class cannot be learned well, whatever it weighs."""


@dataclass(frozen=True)
class Criterion:
    """Cross entropy of a batch, with each class's weight and shift.

    loss = sum_i w[y_i] CE(logits_i + shift, y_i) / sum_i w[y_i]

    Args:
        label_smoothing: Share of the target that is spread over all classes; mixed targets bring their own.
        weight: Weight of each class, (classes,); None for 1.
        shift: What is added to the logits, (classes,); None for 0.
    """

    label_smoothing: float
    weight: Tensor | None = None
    shift: Tensor | None = None

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean loss.

        Args:
            logits: (batch, classes).
            targets: Classes, (batch,), or shares of the classes, (batch, classes).
        """
        logits = logits.float()
        if self.shift is not None:
            logits = logits + self.shift
        if targets.ndim == 1:
            return F.cross_entropy(logits, targets, self.weight, label_smoothing=self.label_smoothing)
        shares = targets if self.weight is None else targets * self.weight * (len(targets) / (targets @ self.weight).sum())
        return -(shares * F.log_softmax(logits, dim=-1)).sum(-1).mean()


def make_criterion(
    balance: Balance, split: Split, num_classes: int, label_smoothing: float, device: torch.device
) -> Criterion:
    """The loss of a run that trains on `split`."""
    if balance not in ("loss", "logits"):
        return Criterion(label_smoothing)
    images = torch.tensor(class_sizes(split, num_classes), dtype=torch.float32, device=device)
    if balance == "loss":
        return Criterion(label_smoothing, weight=images.sum() / (num_classes * images.clamp(min=1)))
    return Criterion(label_smoothing, shift=(images.clamp(min=1) / images.sum()).log())


def class_sizes(split: Split, num_classes: int) -> list[int]:
    """Number of images of every class."""
    return [len(indices) for indices in split.by_class(num_classes)]


def warn_of_uneven_classes(split: Split, class_names: Sequence[str], balance: Balance, choose_by: str) -> str | None:
    """A line that names the extremes and what can be done, where classes are uneven and nothing has been done."""
    sizes = class_sizes(split, len(class_names))
    most, least = max(sizes), min(sizes)
    if most < UNEVEN * max(least, 1) or (balance != "none" and choose_by != "top1"):
        return None
    smallest = class_names[sizes.index(least)]
    few = f"; no setting makes up for so few: more images of {smallest} help most" if least < FEW else ""
    return (
        f"warning: classes are uneven, from {smallest} with {least} training images "
        f"to {class_names[sizes.index(most)]} with {most}: --balance logits lets small ones count as much, "
        f"at the cost of large ones, --choose-by macro_f1 keeps the epoch that serves all of them{few}"
    )
