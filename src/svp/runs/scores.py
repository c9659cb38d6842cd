"""Scores of a model on a split: one pass over its images, from which every metric follows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from svp.runs.certainty import reliability
from svp.runs.rejection import Acceptance, acceptance
from svp.runs.result import METRICS, ClassScore


@dataclass(frozen=True)
class Scores:
    """Outcome on one split. Shares, accuracies and areas are 0 to 1; metrics that do not exist are NaN.

    An image that could not be read counts as wrong: as a miss of its class, and as a guess of none. What is computed from
    probabilities leaves it out.

    Args:
        labels: True classes of the images that could be read, (n,).
        guesses: Their likeliest classes, best first, (n, up to 5).
        probabilities: Their probabilities, (n, classes).
        losses: Their cross entropy in nats, (n,).
        unreadable: True classes of the images that could not be read.
        late: Indices in the split of those of them that the loader found to be so.
    """

    labels: npt.NDArray[np.int64]
    guesses: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]
    losses: npt.NDArray[np.float64]
    unreadable: tuple[int, ...] = ()
    late: tuple[int, ...] = ()

    @property
    def n(self) -> int:
        """Images scored, unreadable ones included."""
        return len(self.labels) + len(self.unreadable)

    @property
    def top1(self) -> float:
        """Share of images whose first guess is right."""
        return int((self.guesses[:, 0] == self.labels).sum()) / self.n

    @property
    def top5(self) -> float:
        """Share of images whose first five guesses hold the right class."""
        return int((self.guesses == self.labels[:, None]).sum()) / self.n

    @property
    def loss(self) -> float:
        """Mean cross entropy in nats."""
        return float(self.losses.mean())

    @property
    def balanced_accuracy(self) -> float:
        """Mean of the classes' recalls, over the classes that have images: what each class weighs the same in."""
        return float(np.mean(self._by_class[1][self._present]))

    @property
    def macro_f1(self) -> float:
        """Mean of the classes' F1, over the classes that have images."""
        return float(np.mean(self._by_class[2][self._present]))

    @property
    def auroc(self) -> float:
        """Area under the ROC curve of each class against the rest, averaged over the classes that have images."""
        from sklearn.metrics import roc_auc_score

        truth, scores = self._one_against_rest
        return float(roc_auc_score(truth, scores, average="macro")) if truth.size else float("nan")

    @property
    def average_precision(self) -> float:
        """Average precision of each class against the rest, averaged over the classes that have images."""
        from sklearn.metrics import average_precision_score

        truth, scores = self._one_against_rest
        return float(average_precision_score(truth, scores, average="macro")) if truth.size else float("nan")

    @property
    def confidence(self) -> npt.NDArray[np.float64]:
        """Probability of the first guess of each image that could be read, (n,)."""
        return self.probabilities.max(axis=1).astype(np.float64)

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """Whether it is right, (n,)."""
        return self.guesses[:, 0] == self.labels

    @property
    def calibration_error(self) -> float:
        """Expected calibration error of the first guess, see `svp.runs.certainty.Reliability`."""
        return reliability(self.confidence, self.right).expected_calibration_error

    def accepted(self, threshold: float) -> Acceptance:
        """What rejecting first guesses with less confidence does."""
        return acceptance(self.confidence, self.right, threshold, len(self.unreadable))

    def value(self, metric: str) -> float:
        """The metric of that name, see `svp.runs.result.Metric`."""
        value: float = getattr(self, metric)
        return value

    def metrics(self) -> dict[str, float | None]:
        """All metrics by name; None where one does not exist, as the area under a curve of a single class."""
        values = {str(metric): self.value(metric) for metric in METRICS}
        return {metric: None if np.isnan(value) else value for metric, value in values.items()}

    def per_class(self, class_names: Sequence[str]) -> dict[str, ClassScore]:
        """Scores of each class, by its name."""
        precision, recall, f1, total = self._by_class
        guessed = np.bincount(self.guesses[:, 0], minlength=len(class_names))
        return {
            name: ClassScore(
                accuracy=float(recall[i]) if total[i] else None,
                n=int(total[i]),
                precision=float(precision[i]) if guessed[i] else None,
                f1=float(f1[i]) if total[i] else None,
            )
            for i, name in enumerate(class_names)
        }

    def confusions(self) -> list[tuple[int, int, int]]:
        """Pairs of a true class and another one that it was taken for, with the number of images, most first."""
        wrong = self.guesses[:, 0] != self.labels
        pairs, counts = np.unique(np.stack([self.labels, self.guesses[:, 0]], axis=1)[wrong], axis=0, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return [(int(pairs[i][0]), int(pairs[i][1]), int(counts[i])) for i in order]

    @cached_property
    def _by_class(self) -> tuple[npt.NDArray[np.float64], ...]:
        """Precision, recall, F1 and number of images of every class; 0 where nothing can be divided."""
        from sklearn.metrics import precision_recall_fscore_support

        truth = np.concatenate([self.labels, np.asarray(self.unreadable, dtype=np.int64)])
        guessed = np.concatenate([self.guesses[:, 0], np.full(len(self.unreadable), -1)])
        classes = np.arange(self.probabilities.shape[1])
        parts: tuple[npt.NDArray[np.float64], ...] = precision_recall_fscore_support(
            truth, guessed, labels=classes, zero_division=0.0
        )
        return parts

    @property
    def _present(self) -> npt.NDArray[np.bool_]:
        present: npt.NDArray[np.bool_] = self._by_class[3] > 0
        return present

    @property
    def _one_against_rest(self) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
        """Truth and probability of each class that some, but not all, of the images belong to: (n, such classes)."""
        truth = self.labels[:, None] == np.arange(self.probabilities.shape[1])
        both = truth.any(axis=0) & ~truth.all(axis=0)
        return truth[:, both], self.probabilities[:, both]


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
        loader: Prepared by `accelerator`, and `normalized` if its images are kept ones.
        accelerator: Devices and processes.
        num_classes: Outputs of the head.
        unreadable_labels: True classes of images that could not be read; they count as wrong.
    """
    model.eval()
    rows, probabilities = [], []
    k = min(5, num_classes)
    for images, labels, index in loader:
        logits = model(images).float()
        loss = F.cross_entropy(logits, labels, reduction="none")
        columns = accelerator.gather(torch.cat([index.unsqueeze(1), labels.unsqueeze(1), logits.topk(k).indices], dim=1))
        losses = accelerator.gather(loss)
        rows.append(
            torch.cat([columns.cpu().double(), losses.cpu().double().unsqueeze(1)], dim=1)
        )  # not all GPUs know float64
        probabilities.append(accelerator.gather(logits.softmax(dim=1)).cpu())
    table = torch.cat(rows).numpy()
    _, first = np.unique(table[:, 0], return_index=True)
    table = table[first]
    late = table[:, 0] < 0  # for these, others stood in
    lost = table[late]
    table, first = table[~late], first[~late]
    return Scores(
        labels=table[:, 1].astype(np.int64),
        guesses=table[:, 2 : 2 + k].astype(np.int64),
        probabilities=torch.cat(probabilities).numpy()[first],
        losses=table[:, -1],
        unreadable=(*unreadable_labels, *lost[:, 1].astype(np.int64).tolist()),
        late=tuple((-1 - lost[:, 0]).astype(np.int64).tolist()),
    )
