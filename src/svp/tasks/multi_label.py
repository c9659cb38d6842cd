"""Any number of labels per image, also none: a sigmoid and a threshold for each label.

A label is said to be there if its probability reaches its threshold: 0.5, or what is chosen on the validation images after
training, where F1 of that label is highest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from svp.errors import InputError
from svp.tasks.task import CLASSES_ALONE, SMALLEST, Answer, Cell, Columns, Loss, Strata, Target, Task, precise

if TYPE_CHECKING:  # reading a table needs neither
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    Floats = npt.NDArray[np.floating[Any]]

UNTUNED = 0.5
"""Threshold of a label for which none was chosen."""

SEPARATOR = ";"
"""What stands between the labels of an image."""


@dataclass(frozen=True)
class MultiLabel(Task):
    """Every image has any number of labels.

    Args:
        thresholds: Probability from which a label is said to be there, one per label; 0.5 for each if empty.
    """

    thresholds: tuple[float, ...] = ()

    kind = "multi"
    title = "several labels per image"
    strata = "rarest label"
    metrics = ("mean_average_precision", "macro_f1", "micro_f1", "exact_match", "auroc", "loss")
    losses = ("bce", "asymmetric")
    without = CLASSES_ALONE
    tunes = True

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Self:
        thresholds = tuple(map(float, values["thresholds"])) if "thresholds" in values else ()
        return cls(**{**values, "thresholds": thresholds})

    def check_outputs(self, outputs: int) -> None:
        if self.thresholds and len(self.thresholds) != outputs:
            raise InputError(f"{len(self.thresholds)} thresholds for {outputs} labels")

    @staticmethod
    def parse(cell: str) -> tuple[str, ...]:
        """The labels in a cell such as ``a;b``, each once, in their order; none if it is empty."""
        return tuple(dict.fromkeys(filter(None, map(str.strip, cell.split(SEPARATOR)))))

    def stratify(self, targets: Sequence[Target], names: Sequence[str]) -> Strata:
        """An image's stratum is its rarest label; strata of fewer than `SMALLEST` images are one together."""
        counts = [sum(column) for column in zip(*targets, strict=True)]
        order = sorted(range(len(names)), key=lambda label: (counts[label], label))

        def rarest(target: Target) -> int:
            return next((label for label in order if target[label]), len(names))

        sizes = Counter(map(rarest, targets))
        kept = [label for label in range(len(names) + 1) if sizes[label] >= SMALLEST]
        stratum_of = {label: stratum for stratum, label in enumerate(kept)}
        titles = [names[label] if label < len(names) else _free("none", names) for label in kept]
        if not kept or len(targets) - sum(sizes[label] for label in kept) >= SMALLEST:
            pooled = len(kept)
            titles.append(_free("few images", names))
        else:
            pooled = stratum_of[max(kept, key=lambda label: sizes[label])]
        return Strata(tuple(titles), lambda target: stratum_of.get(rarest(target), pooled))

    def absent(self, targets: Sequence[Target], names: Sequence[str]) -> list[str]:
        present = [any(column) for column in zip(*targets, strict=True)]
        return [name for name, there in zip(names, present, strict=True) if not there]

    def show_target(self, target: Target, names: Sequence[str]) -> str:
        return SEPARATOR.join(name for name, there in zip(names, target, strict=True) if there) or "none"

    def fitted(self, targets: Sequence[Target]) -> MultiLabel:
        return replace(self, thresholds=(UNTUNED,) * len(targets[0]))

    def tuned(self, outputs: Floats, targets: Floats) -> MultiLabel:
        return replace(self, thresholds=choose_thresholds(outputs, targets))

    def thresholds_of(self, labels: int) -> npt.NDArray[np.float64]:
        """The thresholds of so many labels, (labels,)."""
        import numpy as np

        return np.asarray(self.thresholds or (UNTUNED,) * labels, dtype=np.float64)

    def activate(self, outputs: Tensor) -> Tensor:
        return precise(outputs).sigmoid()

    def averaged(self, views: Sequence[Tensor]) -> Tensor:
        mean: Tensor = sum(self.activate(view) for view in views) / len(views)  # type: ignore[assignment]
        return mean.logit(eps=1e-7)

    def losses_of(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Binary cross entropy in nats, mean over the labels."""
        import torch.nn.functional as F

        return F.binary_cross_entropy_with_logits(precise(outputs), targets.float(), reduction="none").mean(-1)

    def criterion(self, loss: Loss) -> Callable[[Tensor, Tensor], Tensor]:
        import torch.nn.functional as F
        from timm.loss import AsymmetricLossMultiLabel

        if loss == "asymmetric":  # a sum over batch and labels in timm
            asymmetric = AsymmetricLossMultiLabel()
            return lambda outputs, targets: asymmetric(precise(outputs), targets.float()) / targets.numel()
        return lambda outputs, targets: F.binary_cross_entropy_with_logits(precise(outputs), targets.float())

    def answers(self, values: Tensor, names: Sequence[str], topk: int) -> list[dict[str, Any]]:
        import torch

        there = values.cpu().double() >= torch.from_numpy(self.thresholds_of(len(names)))
        probabilities, order = values.sort(dim=-1, descending=True, stable=True)
        rows = zip(probabilities.tolist(), order.tolist(), there.tolist(), strict=True)
        return [
            {
                "classes": tuple(names[i] for i in o),
                "probabilities": tuple(p),
                "labels": tuple(name for name, said in zip(names, t, strict=True) if said),
            }
            for p, o, t in rows
        ]

    def columns(self, names: Sequence[str], topk: int, rejects: bool = False) -> Columns:
        return LabelColumns(tuple(names))

    def describe_output(self) -> dict[str, Any]:
        meaning = "one per label, sigmoid: a label is there from its threshold on"
        return {"task": self.kind, "output": "probabilities", "meaning": meaning, "thresholds": list(self.thresholds)}


@dataclass(frozen=True)
class LabelColumns:
    """The labels that are there, and the probability of each one.

    Args:
        labels: Names of all labels.
    """

    labels: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        return ["labels", *(f"probability_{label}" for label in self.labels)]

    @property
    def numbers(self) -> frozenset[str]:
        return frozenset(self.names[1:])

    @property
    def flags(self) -> frozenset[str]:
        return frozenset()

    @property
    def header(self) -> list[str]:
        return ["labels", "next"]

    def cells(self, answer: Answer) -> list[Cell]:
        if answer.labels is None:
            return [None] * (1 + len(self.labels))
        by_name = dict(zip(answer.classes, answer.probabilities, strict=True))
        return [SEPARATOR.join(answer.labels), *(by_name[label] for label in self.labels)]

    def text(self, cell: Cell) -> str:
        return "" if cell is None else cell if isinstance(cell, str) else f"{cell:.6f}"

    def record(self, answer: Answer) -> dict[str, Any]:
        return {"labels": answer.labels, "probabilities": dict(zip(answer.classes, answer.probabilities, strict=True))}

    def shown(self, answer: Answer) -> list[str]:
        if answer.labels is None:
            return []
        told = [f"{name} {p:.1%}" for name, p in zip(answer.classes, answer.probabilities, strict=True)]
        there = [text for name, text in zip(answer.classes, told, strict=True) if name in answer.labels]
        others = [text for name, text in zip(answer.classes, told, strict=True) if name not in answer.labels]
        return [", ".join(there) or "none", others[0] if others else ""]


def _free(name: str, taken: Sequence[str]) -> str:
    """The name, in as many brackets as it takes to be none of the labels."""
    while name in taken:
        name = f"({name})"
    return name


def choose_thresholds(probabilities: Floats, truth: Floats) -> tuple[float, ...]:
    """For every label the threshold of highest F1; of several, the one closest to 0.5; 0.5 if all or none have it.

    Args:
        probabilities: (images, labels), 0 to 1.
        truth: Whether the image has the label, (images, labels), 0 or 1.

    Returns:
        Thresholds between two probabilities that were seen, or at 0.5; one per label.
    """
    import numpy as np

    return tuple(_choose_threshold(p, t > 0.5) for p, t in zip(np.asarray(probabilities).T, np.asarray(truth).T, strict=True))


def _choose_threshold(probabilities: Floats, truth: npt.NDArray[np.bool_]) -> float:
    import numpy as np

    if truth.all() or not truth.any():
        return UNTUNED
    order = np.argsort(-probabilities, kind="stable")
    sorted_p = probabilities[order].astype(np.float64)
    hits = np.cumsum(truth[order])
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + truth.sum())  # of the first so many
    ends = np.flatnonzero(np.append(sorted_p[:-1] > sorted_p[1:], True))  # equal probabilities stand or fall together
    best = f1[ends].max()
    candidates = []
    for end in ends[f1[ends] >= best - 1e-12]:
        high, low = sorted_p[end], sorted_p[end + 1] if end + 1 < len(sorted_p) else 0.0
        between = (low + high) / 2
        candidates.append(UNTUNED if low < UNTUNED <= high else between if between > low else high)
    return float(min(candidates, key=lambda threshold: abs(threshold - UNTUNED)))
