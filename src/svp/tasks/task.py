"""What every task answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self

from svp.errors import InputError
from svp.tasks.metrics import METRICS, Metric

if TYPE_CHECKING:  # reading a table does not need it
    from torch import Tensor

Kind = Literal["single", "multi", "regression"]

Loss = Literal["auto", "cross_entropy", "bce", "asymmetric", "squared", "smooth_l1"]
"""What is minimized; auto is the first loss of the task."""

Target = tuple[float, ...]
"""What is to be said of one image, one value per output of the head."""

CLASSES_ALONE: dict[str, Any] = {
    "balance": "none",
    "mixup": 0.0,
    "cutmix": 0.0,
    "shots": None,
    "calibrate": False,
    "reject": None,
    "folds": None,
}
"""Settings of training that are about classes, and the values that turn them off."""

SMALLEST = 3
"""Images of a stratum, at least: one for training, validation and test each."""

Cell = str | float | bool | None
"""Cell of a table of predictions; None where there is nothing to say."""


class Answer(Protocol):
    """What a task reads off the outputs of one image.

    Attributes:
        classes: Names of classes or labels, likeliest first.
        probabilities: Theirs, 0 to 1.
        rejected: Whether the likeliest class is rejected; None where nothing can be.
        labels: The labels that are said to be there; None where the task has none.
        value: The number; None where the task has none.
    """

    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def probabilities(self) -> tuple[float, ...]: ...
    @property
    def rejected(self) -> bool | None: ...
    @property
    def labels(self) -> tuple[str, ...] | None: ...
    @property
    def value(self) -> float | None: ...


class Columns(Protocol):
    """How predictions are laid out in files and tables.

    Attributes:
        names: Names of the columns between the path and the error.
        numbers: Those of them that hold numbers.
        flags: Those of them that hold true or false.
        header: Names of the columns for people.
    """

    @property
    def names(self) -> list[str]: ...
    @property
    def numbers(self) -> frozenset[str]: ...
    @property
    def flags(self) -> frozenset[str]: ...
    @property
    def header(self) -> list[str]: ...

    def cells(self, answer: Answer) -> list[Cell]:
        """A cell for each name."""

    def text(self, cell: Cell) -> str:
        """A cell in a CSV file."""

    def record(self, answer: Answer) -> dict[str, Any]:
        """Entries of a JSON object."""

    def shown(self, answer: Answer) -> list[str]:
        """Cells for people, at most one for each of the header."""


@dataclass(frozen=True)
class Strata:
    """What images are stratified by when they are split.

    Args:
        names: Names of the strata, no two the same.
        of: The stratum of a target, an index into the names.
    """

    names: tuple[str, ...]
    of: Callable[[Target], int]


KINDS: dict[str, type[Task]] = {}
"""Tasks by their kind."""


@dataclass(frozen=True)
class Task(ABC):
    """What a head says of an image. Its fields are what is fitted on the data, and stand in ``adapter.json``."""

    kind: ClassVar[Kind]
    title: ClassVar[str]
    """In words, for messages."""
    strata: ClassVar[str]
    """What images are stratified by when they are split, in words."""
    metrics: ClassVar[tuple[Metric, ...]]
    """What it is scored by; the first one chooses the epoch."""
    losses: ClassVar[tuple[Loss, ...]]
    """What may be minimized; the first one is taken if nothing is said."""
    without: ClassVar[Mapping[str, Any]] = {}
    """Settings of training that mean nothing here, and the values that turn them off."""

    tunes: ClassVar[bool] = False
    """Whether `tuned` chooses anything."""

    def __init_subclass__(cls) -> None:
        KINDS[cls.kind] = cls

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as ``adapter.json`` holds them."""
        return {"kind": self.kind, **asdict(self)}

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Self:
        """The task that such values describe, without ``kind``."""
        return cls(**values)

    def check_outputs(self, outputs: int) -> None:  # noqa: B027
        """Raise ``InputError`` if a head of so many outputs cannot be for this task."""

    def resolve(self, settings: Any) -> dict[str, Any]:
        """The settings that it fills in: the metric that chooses the epoch, and the loss.

        Args:
            settings: Settings of a training, as attributes.

        Raises:
            InputError: A setting means nothing for this task, or names a metric or a loss of another one.
        """
        for name, off in self.without.items():
            value = getattr(settings, name, off)
            if value != off:
                raise InputError(
                    f"{name} is {value}, which is for one class per image; this is {self.title}: leave {name} out"
                )
        choose_by = self.metrics[0] if settings.choose_by == "auto" else settings.choose_by
        if choose_by not in self.metrics:
            raise InputError(f"choose_by is {choose_by}, and this is {self.title}; its metrics are {', '.join(self.metrics)}")
        loss = self.losses[0] if settings.loss == "auto" else settings.loss
        if loss not in self.losses:
            raise InputError(f"loss is {loss}, and this is {self.title}; its losses are {', '.join(self.losses)}")
        return {"choose_by": choose_by, "loss": loss}

    def stratify(self, targets: Sequence[Target], names: Sequence[str]) -> Strata:
        """Strata of images, found on those that are trained on.

        Args:
            targets: What is true of each image; there is at least one.
            names: Names of the outputs.
        """
        raise InputError(f"{self.title} has no targets")

    def absent(self, targets: Sequence[Target], names: Sequence[str]) -> list[str]:
        """Names of which none of the images is, where that means anything."""
        return []

    def show_target(self, target: Target, names: Sequence[str]) -> str:
        """What is true of an image, in words."""
        raise InputError(f"{self.title} has no targets")

    def fitted(self, targets: Sequence[Target]) -> Task:
        """The task with the constants of the training images, such as their mean."""
        return self

    def tuned(self, outputs: Any, targets: Any) -> Task:
        """The task with what is chosen on validation images after training, such as thresholds.

        Args:
            outputs: What `activate` made, (images, outputs).
            targets: What is true, (images, outputs).
        """
        return self

    @abstractmethod
    def activate(self, outputs: Tensor) -> Tensor:
        """What the head's outputs mean, as probabilities or numbers: (batch, outputs) to the same, in float32 at least."""

    @abstractmethod
    def averaged(self, views: Sequence[Tensor]) -> Tensor:
        """Outputs that mean the mean of what the outputs of several views of the same images mean."""

    @abstractmethod
    def losses_of(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of every image that epochs are compared by, (batch,)."""

    @abstractmethod
    def criterion(self, loss: Loss) -> Callable[[Tensor, Tensor], Tensor] | None:
        """The loss of a batch that is trained by: outputs, (batch, outputs), and targets to their mean.

        None for classes, whose loss `svp.training.balance` makes.
        """

    @abstractmethod
    def answers(self, values: Tensor, names: Sequence[str], topk: int) -> list[dict[str, Any]]:
        """What is said of each image, as fields of an `Answer`.

        Args:
            values: What `activate` gave, (batch, outputs).
            names: Names of the outputs.
            topk: Classes per image, where the task ranks classes.
        """

    @abstractmethod
    def columns(self, names: Sequence[str], topk: int, rejects: bool = False) -> Columns:
        """How predictions are laid out.

        Args:
            names: Names of the outputs.
            topk: Classes per image, where the task ranks classes.
            rejects: Whether classes may be rejected as "none of these".
        """

    @property
    def scale(self) -> float:
        """The size of a difference between two outputs that counts as 1."""
        return 1.0

    @abstractmethod
    def describe_output(self) -> dict[str, Any]:
        """What the numbers of an exported file mean, for programs."""

    def name_metric(self, metric: str) -> str:
        """A metric as tables name it."""
        return METRICS[metric]  # type: ignore[index]


def precise(outputs: Tensor) -> Tensor:
    """Outputs in float32 at least: bfloat16 would round probabilities and numbers."""
    import torch

    return outputs if outputs.dtype in (torch.float32, torch.float64) else outputs.float()


def read_task(values: Mapping[str, Any] | None) -> Task:
    """The task that ``adapter.json`` describes; single-label where it says nothing, as in files of version 0.1.0.

    Raises:
        InputError: The kind is unknown, or an entry is missing, unknown or of another type.
    """
    given = dict(values or {"kind": "single"})
    kind = given.pop("kind", None)
    if kind not in KINDS:
        raise InputError(f"task is {kind!r}, expected {', '.join(KINDS)}")
    try:
        return KINDS[kind].read(given)
    except (TypeError, ValueError) as error:
        raise InputError(f"task {kind} cannot be read: {error}") from error
