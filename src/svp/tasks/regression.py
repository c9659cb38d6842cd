"""A number per image; grades in an order are predicted as numbers, too.

The head's output is standardized: number = mean + std * output, with mean and standard deviation of the training images.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any

from svp.errors import InputError
from svp.tasks.task import CLASSES_ALONE, SMALLEST, Answer, Cell, Columns, Loss, Strata, Target, Task, precise

if TYPE_CHECKING:  # reading a table does not need it
    from torch import Tensor

_RANGES = 10
"""Ranges of numbers that images are stratified by, at most."""


@dataclass(frozen=True)
class Regression(Task):
    """Every image has a number.

    Args:
        mean: Mean of the numbers of the training images.
        std: Their standard deviation, above 0.
    """

    mean: float = 0.0
    std: float = 1.0

    kind = "regression"
    title = "a number per image"
    strata = "range of numbers"
    metrics = ("mae", "rmse", "r2", "rank_correlation", "loss")
    losses = ("squared", "smooth_l1")
    without = CLASSES_ALONE

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            if not isinstance(getattr(self, name), float | int) or not math.isfinite(getattr(self, name)):
                raise InputError(f"{name} is {getattr(self, name)!r}, expected a number")
        if self.std <= 0:
            raise InputError(f"std is {self.std}, expected a number above 0")

    def check_outputs(self, outputs: int) -> None:
        if outputs != 1:
            raise InputError(f"{outputs} outputs for one number")

    @staticmethod
    def parse(cell: str) -> float:
        """The number in a cell.

        Raises:
            InputError: It is no finite number.
        """
        try:
            number = float(cell) if "_" not in cell else math.nan  # Python's own 1_000 is more likely a name
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise InputError(f"{cell!r} is no number")
        return number

    def stratify(self, targets: Sequence[Target], names: Sequence[str]) -> Strata:
        """Up to ten ranges with about as many images each, of at least `SMALLEST`; equal numbers are in one range."""
        numbers = sorted(target[0] for target in targets)
        cuts = sorted({numbers[len(numbers) * k // _RANGES] for k in range(1, _RANGES)})
        edges: list[float] = []
        for cut in cuts:
            place = bisect_left(numbers, cut)
            before = bisect_left(numbers, edges[-1]) if edges else 0
            if place - before >= SMALLEST and len(numbers) - place >= SMALLEST:
                edges.append(cut)
        places = [0, *(bisect_left(numbers, edge) for edge in edges), len(numbers)]
        ends = [(numbers[first], numbers[last - 1]) for first, last in pairwise(places)]
        titles: list[str] = []
        for digits in (4, 6, 9, 17):  # 17 tell any two numbers apart
            titles = [f"{low:.{digits}g} to {high:.{digits}g}" if high > low else f"{low:.{digits}g}" for low, high in ends]
            if len(set(titles)) == len(titles):
                break
        return Strata(tuple(titles), lambda target: bisect_right(edges, target[0]))

    def show_target(self, target: Target, names: Sequence[str]) -> str:
        return f"{target[0]:.6g}"

    def fitted(self, targets: Sequence[Target]) -> Regression:
        numbers = [target[0] for target in targets]
        if min(numbers) == max(numbers):
            raise InputError(f"all {len(numbers)} training images have the number {numbers[0]:g}: nothing can be learned")
        return Regression(fmean(numbers), pstdev(numbers))

    def activate(self, outputs: Tensor) -> Tensor:
        return precise(outputs) * self.std + self.mean

    def averaged(self, views: Sequence[Tensor]) -> Tensor:
        mean: Tensor = sum(precise(view) for view in views) / len(views)  # type: ignore[assignment]
        return mean

    def losses_of(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Squared error, in units of the variance of the training numbers."""
        return (precise(outputs) - self._standardized(targets)).square().mean(-1)

    def criterion(self, loss: Loss) -> Callable[[Tensor, Tensor], Tensor]:
        import torch.nn.functional as F

        function = F.smooth_l1_loss if loss == "smooth_l1" else F.mse_loss
        return lambda outputs, targets: function(precise(outputs), self._standardized(targets))

    def _standardized(self, targets: Tensor) -> Tensor:
        return (targets.float() - self.mean) / self.std

    def answers(self, values: Tensor, names: Sequence[str], topk: int) -> list[dict[str, Any]]:
        return [{"value": value} for value in values[:, 0].tolist()]

    def columns(self, names: Sequence[str], topk: int, rejects: bool = False) -> Columns:
        return NumberColumns(names[0])

    @property
    def scale(self) -> float:
        return self.std

    def describe_output(self) -> dict[str, Any]:
        return {"task": self.kind, "output": "numbers", "meaning": "in units of the training numbers", **self.to_dict()}


@dataclass(frozen=True)
class NumberColumns:
    """The number.

    Args:
        name: What the number is.
    """

    name: str

    @property
    def names(self) -> list[str]:
        return ["value"]

    @property
    def numbers(self) -> frozenset[str]:
        return frozenset(self.names)

    @property
    def flags(self) -> frozenset[str]:
        return frozenset()

    @property
    def header(self) -> list[str]:
        return [self.name]

    def cells(self, answer: Answer) -> list[Cell]:
        return [answer.value]

    def text(self, cell: Cell) -> str:
        return "" if cell is None else f"{cell:.7g}"

    def record(self, answer: Answer) -> dict[str, Any]:
        return {"value": answer.value}

    def shown(self, answer: Answer) -> list[str]:
        return [] if answer.value is None else [f"{answer.value:.4g}"]
