"""Scores of a model on a split, the same for one process and for many."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from svp.data import Unreadable


@dataclass(frozen=True)
class Scores:
    """Outcome on one split; accuracies in 0..1.

    Args:
        top1: Share of images whose first guess is right.
        top5: Share whose first five guesses hold the right class.
        loss: Mean cross entropy of the images that could be read.
        n: Images scored. Unreadable ones count as wrong.
        correct: Right first guesses, per class.
        total: Images, per class.
    """

    top1: float
    top5: float
    loss: float
    n: int
    correct: npt.NDArray[np.int64]
    total: npt.NDArray[np.int64]

    def per_class(self, class_names: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Accuracy and number of images by class name; no accuracy where the split has no image of a class."""
        return {
            name: {"accuracy": int(c) / int(t) if t else None, "n": int(t)}
            for name, c, t in zip(class_names, self.correct, self.total, strict=True)
        }


@torch.no_grad()
def score(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor, Tensor]],
    accelerator: Accelerator,
    num_classes: int,
    unreadable_labels: Sequence[int] = (),
) -> Scores:
    """Evaluate `model` on what `loader` gives: (images, labels, index in the split).

    Every image counts once whatever the number of processes: batches that accelerate pads with repeated images are put in
    order by index.

    Args:
        model: Prepared by `accelerator`.
        loader: Prepared by `accelerator`, and `normalised` if its images are kept ones.
        accelerator: Devices and processes.
        num_classes: Outputs of the head.
        unreadable_labels: True classes of images that could not be read; they count as wrong.
    """
    model.eval()
    rows = []
    k = min(5, num_classes)
    for images, labels, index in loader:
        logits = model(images).float()
        loss = F.cross_entropy(logits, labels, reduction="none")
        columns = (index.unsqueeze(1), labels.unsqueeze(1), logits.topk(k).indices)
        row = torch.cat([*(c.double() for c in columns), loss.double().unsqueeze(1)], dim=1)
        rows.append(accelerator.gather(row).cpu())
    table = torch.cat(rows).numpy()
    _, first = np.unique(table[:, 0], return_index=True)
    table = table[first]
    classes, guesses = table[:, 1].astype(np.int64), table[:, 2 : 2 + k].astype(np.int64)
    hits = guesses == classes[:, None]
    lost = np.bincount(np.asarray(unreadable_labels, dtype=np.int64), minlength=num_classes)
    n = len(table) + len(unreadable_labels)
    return Scores(
        top1=int(hits[:, 0].sum()) / n,
        top5=int(hits.sum()) / n,
        loss=float(table[:, -1].mean()),
        n=n,
        correct=np.bincount(classes[hits[:, 0]], minlength=num_classes),
        total=np.bincount(classes, minlength=num_classes) + lost,
    )


def describe_unreadable(unreadable: Sequence[Unreadable]) -> list[dict[str, str]]:
    """As ``result.json`` lists them."""
    return [{"path": str(image.path), "reason": image.reason} for image in unreadable]
