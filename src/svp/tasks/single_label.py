"""One class per image: softmax, cross entropy, top-1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from svp.tasks.task import Answer, Cell, Columns, Loss, Task, precise

if TYPE_CHECKING:  # reading a table does not need it
    from torch import Tensor


@dataclass(frozen=True)
class SingleLabel(Task):
    """Every image is of one class."""

    kind = "single"
    title = "one class per image"
    strata = "class"
    metrics = ("top1", "top5", "balanced_accuracy", "macro_f1", "auroc", "average_precision", "loss", "calibration_error")
    losses = ("cross_entropy",)

    def activate(self, outputs: Tensor) -> Tensor:
        return precise(outputs).softmax(-1)

    def averaged(self, views: Sequence[Tensor]) -> Tensor:
        import torch

        mean: Tensor = sum(self.activate(view) for view in views) / len(views)  # type: ignore[assignment]
        return mean.clamp(min=torch.finfo(torch.float32).tiny).log()

    def losses_of(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross entropy in nats."""
        import torch.nn.functional as F

        return F.cross_entropy(precise(outputs), targets, reduction="none")

    def criterion(self, loss: Loss) -> None:
        return None

    def answers(self, values: Tensor, names: Sequence[str], topk: int) -> list[dict[str, Any]]:
        probabilities, classes = values.topk(min(topk, len(names)))
        return [
            {"classes": tuple(names[i] for i in c), "probabilities": tuple(p)}
            for p, c in zip(probabilities.tolist(), classes.tolist(), strict=True)
        ]

    def columns(self, names: Sequence[str], topk: int, rejects: bool = False) -> Columns:
        return RankedColumns(min(topk, len(names)), rejects)

    def describe_output(self) -> dict[str, Any]:
        return {"task": self.kind, "output": "probabilities", "meaning": "one per class, softmax: they add up to 1"}


NONE_OF_THESE = "none of these"
"""What is shown instead of a class that is guessed with less confidence than the threshold."""

SINGLE_LABEL = SingleLabel()
"""What a head says where nothing else is said."""


@dataclass(frozen=True)
class RankedColumns:
    """Class and probability of the likeliest, the second and so on.

    Args:
        topk: Classes per image.
        rejects: Whether a column says that the likeliest class is rejected.
    """

    topk: int
    rejects: bool = False

    @property
    def names(self) -> list[str]:
        ranked = [f"{kind}_{k + 1}" for k in range(self.topk) for kind in ("class", "probability")]
        return [*ranked, *self.flags]

    @property
    def numbers(self) -> frozenset[str]:
        return frozenset(f"probability_{k + 1}" for k in range(self.topk))

    @property
    def flags(self) -> frozenset[str]:
        return frozenset({"rejected"} if self.rejects else ())

    @property
    def header(self) -> list[str]:
        return [f"{k + 1}." for k in range(self.topk)]

    def cells(self, answer: Answer) -> list[Cell]:
        cells: list[Cell] = [cell for pair in zip(answer.classes, answer.probabilities, strict=True) for cell in pair]
        return [*cells, *[None] * (2 * self.topk - len(cells)), *[answer.rejected] * self.rejects]

    def text(self, cell: Cell) -> str:
        if isinstance(cell, bool):
            return str(cell).lower()
        return "" if cell is None else cell if isinstance(cell, str) else f"{cell:.6f}"

    def record(self, answer: Answer) -> dict[str, Any]:
        rejected = {} if answer.rejected is None else {"rejected": answer.rejected}
        return {"classes": answer.classes, "probabilities": answer.probabilities, **rejected}

    def shown(self, answer: Answer) -> list[str]:
        shown = [f"{name} {value:.1%}" for name, value in zip(answer.classes, answer.probabilities, strict=True)]
        return [f"{NONE_OF_THESE} ({shown[0]})", *shown[1:]] if answer.rejected else shown
