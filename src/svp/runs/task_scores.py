"""What the scores of every task have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from svp.runs.result import ClassScore
from svp.tasks import Target, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Outcome:
    """What a pass over the images of a split found, in their order.

    Args:
        task: What the outputs mean.
        outputs: What the head gave, (n, outputs), float32.
        values: What the task made of them, probabilities or numbers, (n, outputs).
        targets: What is true, (n, outputs); of classes their numbers, (n, 1).
        losses: Loss of each image, (n,).
        lost: Targets of further images, which could not be read.
        late: Indices in the split of those of them that the loader found to be so.
    """

    task: Task
    outputs: Tensor
    values: npt.NDArray[np.float32]
    targets: npt.NDArray[np.float64]
    losses: npt.NDArray[np.float64]
    lost: tuple[Target, ...] = ()
    late: tuple[int, ...] = ()


class TaskScores(Protocol):
    """Scores of a model on one split.

    Attributes:
        late: Indices in the split of unreadable images that the loader found to be so.
        n: Images, unreadable ones included.
        loss: Mean loss of the images that could be read.
        top1: Share of images whose class is guessed right, 0 to 1; NaN where the task has no classes.
        top5: The same with five guesses.
    """

    @property
    def late(self) -> tuple[int, ...]: ...
    @property
    def n(self) -> int: ...
    @property
    def loss(self) -> float: ...
    @property
    def top1(self) -> float: ...
    @property
    def top5(self) -> float: ...

    def value(self, metric: str) -> float:
        """The metric of that name, one of those of the task."""

    def metrics(self) -> dict[str, float | None]:
        """All metrics of the task by name; None where one does not exist."""

    def per_class(self, names: Sequence[str]) -> dict[str, ClassScore]:
        """Scores of each class or label, by its name."""

    def rows(self) -> list[tuple[str, str]]:
        """What a person sees at the end of a run: a name and a value each."""

    def sentences(self, names: Sequence[str]) -> list[str]:
        """What a person should know of a finished run."""

    def figures(self, names: Sequence[str]) -> dict[str, Figure]:
        """Figures beside the curves of a run, by the names of their files."""


class ScoresWithoutClasses:
    """What scores of tasks without classes have in common: every metric of the task is an attribute of its name.

    Attributes:
        kind: The task.
        truth: What is true of the images that could be read, one row each.
        unreadable: What is true of those that could not.
    """

    kind: ClassVar[type[Task]]
    truth: Any
    unreadable: Any

    @property
    def n(self) -> int:
        return len(self.truth) + len(self.unreadable)

    @property
    def top1(self) -> float:
        return float("nan")

    @property
    def top5(self) -> float:
        return float("nan")

    def value(self, metric: str) -> float:
        value: float = getattr(self, metric)
        return value

    def metrics(self) -> dict[str, float | None]:
        values = {str(metric): self.value(metric) for metric in self.kind.metrics}
        return {metric: None if np.isnan(value) else value for metric, value in values.items()}
