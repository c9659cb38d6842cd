"""Scores of a model that says a number of an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from svp.plotting import COLORS, COLUMN, GREY, new_figure, open_axis
from svp.runs.result import ClassScore
from svp.runs.task_scores import Outcome, ScoresWithoutClasses
from svp.tasks import Regression, show_metric

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class NumberScores(ScoresWithoutClasses):
    """Outcome on one split, in units of the numbers; metrics that do not exist are NaN.

    Nothing is said of an image that could not be read, so that no error can be told: it is counted and left out.

    Args:
        truth: True numbers of the images that could be read, (n,).
        values: What the model says, (n,).
        losses: Squared errors in units of the variance of the training numbers, (n,).
        unreadable: True numbers of the images that could not be read.
        late: Indices in the split of those of them that the loader found to be so.
    """

    kind = Regression

    truth: Array
    values: Array
    losses: Array
    unreadable: tuple[float, ...] = ()
    late: tuple[int, ...] = ()

    @classmethod
    def of(cls, outcome: Outcome) -> NumberScores:
        """The scores of what a pass over the images found."""
        lost = tuple(target[0] for target in outcome.lost)
        values = outcome.values[:, 0].astype(np.float64)
        return cls(outcome.targets[:, 0], values, outcome.losses, lost, outcome.late)

    @property
    def errors(self) -> Array:
        """What the model says less what is true, (n,)."""
        return self.values - self.truth

    @property
    def loss(self) -> float:
        return float(self.losses.mean())

    @property
    def mae(self) -> float:
        """Mean absolute error."""
        return float(np.abs(self.errors).mean())

    @property
    def rmse(self) -> float:
        """Root of the mean squared error."""
        return float(np.sqrt(np.square(self.errors).mean()))

    @property
    def r2(self) -> float:
        """1 - sum of squared errors / sum of squared differences of the truth to its mean; NaN if the truth is one number."""
        spread = np.square(self.truth - self.truth.mean()).sum()
        return float(1 - np.square(self.errors).sum() / spread) if spread > 0 else float("nan")

    @property
    def rank_correlation(self) -> float:
        """Spearman's; 0 if the model says one number of all images, NaN if the truth is one number."""
        from scipy.stats import spearmanr

        if np.ptp(self.truth) == 0:
            return float("nan")
        return 0.0 if np.ptp(self.values) == 0 else float(spearmanr(self.truth, self.values).statistic)

    def per_class(self, names: Sequence[str]) -> dict[str, ClassScore]:
        return {}

    def rows(self) -> list[tuple[str, str]]:
        return [
            ("test MAE, RMSE", f"{show_metric('mae', self.mae)}, {show_metric('rmse', self.rmse)} of {self.n} images"),
            ("R2, rank correlation", f"{show_metric('r2', self.r2)}, {show_metric('r2', self.rank_correlation)}"),
        ]

    def sentences(self, names: Sequence[str]) -> list[str]:
        typical, far = np.quantile(np.abs(self.errors), [0.5, 0.95])
        plain = float(np.abs(self.truth - np.median(self.truth)).mean())
        return [
            f"Half of the test images are told to within {typical:.3g}, 95 % to within {far:.3g}; the mean error is "
            f"{self.mae:.3g}, where always saying the median would make it {plain:.3g}."
        ]

    def figures(self, names: Sequence[str]) -> dict[str, Figure]:
        return {"scatter": plot_numbers(self, names[0])}


def plot_numbers(scores: NumberScores, name: str) -> Figure:
    """What the model says of each image over what is true.

    Args:
        scores: True and predicted numbers of the images.
        name: Name of the number, for the axes.
    """
    figure = new_figure(COLUMN, COLUMN)
    axis = figure.subplots()
    both = np.concatenate([scores.truth, scores.values])
    margin = 0.04 * np.ptp(both)
    ends = (both.min() - margin, both.max() + margin)
    axis.plot(ends, ends, color=GREY, linestyle="--", linewidth=0.8)
    alpha = min(0.7, max(0.1, 100 / len(scores.truth)))
    axis.scatter(scores.truth, scores.values, s=8, color=COLORS[0], alpha=alpha, linewidth=0)
    axis.set(xlabel=f"true {name}", ylabel=f"predicted {name}", xlim=ends, ylim=ends)
    axis.set_aspect("equal")
    axis.set_title(f"MAE {scores.mae:.3g}, R2 {scores.r2:.3f}")
    open_axis(axis)
    return figure
