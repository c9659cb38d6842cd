"""Metrics of all tasks by name; a task says which of them are its own."""

from __future__ import annotations

from typing import Literal

Metric = Literal[
    "top1",
    "top5",
    "balanced_accuracy",
    "macro_f1",
    "auroc",
    "average_precision",
    "loss",
    "calibration_error",
    "mean_average_precision",
    "micro_f1",
    "exact_match",
    "mae",
    "rmse",
    "r2",
    "rank_correlation",
]
"""What scores a model as a whole; the scores of each task say how it is computed, see `svp.runs.scores`."""

METRICS: dict[Metric, str] = {
    "top1": "top-1",
    "top5": "top-5",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "auroc": "AUROC",
    "average_precision": "average precision",
    "loss": "loss",
    "calibration_error": "calibration error",
    "mean_average_precision": "mAP",
    "micro_f1": "micro F1",
    "exact_match": "all labels right",
    "mae": "MAE",
    "rmse": "RMSE",
    "r2": "R2",
    "rank_correlation": "rank correlation",
}
"""Metrics as tables name them."""

LOWER_IS_BETTER: frozenset[str] = frozenset({"loss", "calibration_error", "mae", "rmse"})

_NUMBERS = frozenset({"mae", "rmse"})
_PLAIN = frozenset({"loss", "r2", "rank_correlation"})


def show_metric(metric: str, value: float | None) -> str:
    """A value as tables show it: a share in percent, an error in units of the numbers; "-" where there is none."""
    if value is None or value != value:
        return "-"
    if metric in _NUMBERS:
        return f"{value:.4g}"
    return f"{value:.3f}" if metric in _PLAIN else f"{value:.2%}"
