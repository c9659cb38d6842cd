"""Scores of a model on a split: one pass over its images, from which every metric follows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from svp.runs.certainty import reliability
from svp.runs.label_scores import LabelScores
from svp.runs.number_scores import NumberScores
from svp.runs.rejection import Acceptance, acceptance
from svp.runs.result import ClassScore
from svp.runs.task_scores import Outcome, TaskScores
from svp.tasks import SINGLE_LABEL, Target, Task


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

    @classmethod
    def of(cls, outcome: Outcome) -> Scores:
        """The scores of what a pass over the images found."""
        return cls(
            labels=outcome.targets[:, 0].astype(np.int64),
            guesses=outcome.outputs.topk(min(5, outcome.outputs.shape[1])).indices.numpy(),
            probabilities=outcome.values,
            losses=outcome.losses,
            unreadable=tuple(int(lost[0]) for lost in outcome.lost),
            late=outcome.late,
        )

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
        """The metric of that name, see `svp.tasks.Metric`."""
        value: float = getattr(self, metric)
        return value

    def metrics(self) -> dict[str, float | None]:
        """All metrics by name; None where one does not exist, as the area under a curve of a single class."""
        values = {str(metric): self.value(metric) for metric in SINGLE_LABEL.metrics}
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

    def rows(self) -> list[tuple[str, str]]:
        """What a person sees at the end of a run; of up to five classes, five guesses always hold the right one."""
        return [
            ("test top-1", f"{self.top1:.2%} of {self.n} images"),
            *([("test top-5", f"{self.top5:.2%}")] if self.probabilities.shape[1] > 5 else []),
            ("macro F1, balanced accuracy", f"{self.macro_f1:.2%}, {self.balanced_accuracy:.2%}"),
        ]

    def sentences(self, names: Sequence[str]) -> list[str]:
        """None: `svp.training.advice` knows more."""
        return []

    def figures(self, names: Sequence[str]) -> dict[str, Any]:
        """None beside the curves."""
        return {}

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


_SCORES: dict[str, Callable[[Outcome], TaskScores]] = {
    "single": Scores.of,
    "multi": LabelScores.of,
    "regression": NumberScores.of,
}
"""How each task is scored."""


def score(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor, Tensor]],
    accelerator: Accelerator,
    task: Task = SINGLE_LABEL,
    unreadable: Sequence[int | Target] = (),
) -> TaskScores:
    """Evaluate `model` on what `loader` gives: (images, labels or targets, index in the split).

    Every image counts once whatever the number of processes: batches that accelerate pads with repeated images are put in
    order by index.

    Args:
        model: Prepared by `accelerator`.
        loader: Prepared by `accelerator`, and `normalized` if its images are kept ones.
        accelerator: Devices and processes.
        task: What the outputs of the model mean.
        unreadable: True classes or targets of images that could not be read; where the task allows it, they count as wrong.
    """
    return _SCORES[task.kind](run_model(model, loader, accelerator, task, unreadable))


@torch.no_grad()
def run_model(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor, Tensor]],
    accelerator: Accelerator,
    task: Task,
    unreadable: Sequence[int | Target] = (),
) -> Outcome:
    """What a model says of all images, for arguments see `score`."""
    model.eval()
    rows, outputs, values = [], [], []
    for images, targets, index in loader:
        found = model(images).float()
        loss = task.losses_of(found, targets)
        columns = (index.unsqueeze(1), loss.unsqueeze(1), targets.reshape(len(targets), -1))
        gathered = [accelerator.gather(column).cpu().double() for column in columns]  # not all GPUs know float64
        rows.append(torch.cat(gathered, dim=1))
        outputs.append(accelerator.gather(found).cpu())
        values.append(accelerator.gather(task.activate(found)).cpu())
    table = torch.cat(rows).numpy()
    _, first = np.unique(table[:, 0], return_index=True)
    table = table[first]
    late = table[:, 0] < 0  # for these, others stood in
    gone = table[late]
    table, first = table[~late], first[~late]
    before = [target if isinstance(target, tuple) else (float(target),) for target in unreadable]
    return Outcome(
        task=task,
        outputs=torch.cat(outputs)[torch.from_numpy(first)],
        values=torch.cat(values).numpy()[first],
        targets=table[:, 2:],
        losses=table[:, 1],
        lost=(*before, *map(tuple, gone[:, 2:].tolist())),
        late=tuple((-1 - gone[:, 0]).astype(np.int64).tolist()),
    )
