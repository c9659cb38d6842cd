"""Figures of what a model says of labelled images: its features, its mistakes, its confidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from svp.plotting import COLORS, COLUMN, GREY, MARKERS, PAGE, SMALL, new_figure, open_axis, percent, shorten
from svp.runs.certainty import Reliability, wilson
from svp.runs.rejection import RiskCoverage
from svp.runs.result import ClassScore

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_NAMED = 30
"""Classes whose names fit beside a confusion matrix."""
_COLOURED = 20
"""Classes that can be told apart among points."""
_PANELS, _LEGEND, _LEGEND_CHARACTERS = 4, 1.3, 17
"""Panels in a row; inches and characters of the legend."""
_FEW = 10
"""Images of a bin below which its bar is pale, and below which no interval is drawn."""


def plot_features(embedded: Mapping[str, Array], labels: Integers, class_names: Sequence[str]) -> Figure:
    """Features in two dimensions, one panel per model, one color and marker per class.

    Args:
        embedded: Points (images, 2) by the title of the panel.
        labels: (images,)
        class_names: Class names by label; where there are more than can be told apart, the frequent ones are colored.
    """
    frequent = np.argsort(-np.bincount(labels, minlength=len(class_names)), kind="stable")[:_COLOURED]
    colored = sorted(int(label) for label in frequent if label in labels)
    rows = -(-len(embedded) // _PANELS)
    columns = -(-len(embedded) // rows)
    side = (PAGE - _LEGEND) / max(columns, 2)
    figure = new_figure(side * columns + _LEGEND, max(rows * (side + 0.25), 0.13 * len(colored) + 0.2))
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(embedded) :]:
        axis.set_visible(False)
    for axis, (title, points) in zip(axes.flat, embedded.items(), strict=False):
        others = ~np.isin(labels, colored)
        axis.scatter(*points[others].T, s=6, color=GREY, alpha=0.3, linewidth=0)
        for number, label in enumerate(colored):
            chosen = points[labels == label]
            shade, marker = COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]  # 7 and 8: 56 pairs
            axis.scatter(*chosen.T, s=12, color=shade, marker=marker, alpha=0.8, linewidth=0)
        axis.set(xticks=[], yticks=[], title=title)
        axis.set_box_aspect(1)
        axis.spines[:].set_color("#bbbbbb")
    others_handle, *handles = axes.flat[0].collections
    names = [shorten(class_names[label], _LEGEND_CHARACTERS) for label in colored]
    if len(colored) < len(np.unique(labels)):
        handles, names = [*handles, others_handle], [*names, "other classes"]
    figure.legend(handles, names, loc="outside right center", handletextpad=0.1)
    return figure


def plot_confusion(confusion: Integers, class_names: Sequence[str]) -> Figure:
    """Share of every class's images that was taken for which class; names and counts where they fit, else places."""
    classes = len(class_names)
    named = classes <= _NAMED
    names = [shorten(name, 24) for name in class_names]
    beside = 0.065 * max(map(len, names)) if named else 0.3  # what the names take
    cells = min(0.3 * classes, PAGE - 1.6 - beside) if named else PAGE - 2.2
    cells = max(cells, COLUMN - 1.6 - beside, 1.2)
    figure = new_figure(cells + beside + (1.4 if named else 1.8), cells + beside + 0.5)
    axis = figure.subplots()
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    drawn = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    if named:
        axis.set_xticks(range(classes), names, rotation=90 if max(map(len, names)) > 3 else 0)
        axis.set_yticks(range(classes), names)
        size = min(SMALL, 72 * cells / classes / 2.4)  # three digits in a cell
        for row, column in zip(*np.nonzero(confusion), strict=True):
            shade = "white" if shares[row, column] > 0.55 else "black"
            axis.text(column, row, confusion[row, column], ha="center", va="center", fontsize=size, color=shade)
    where = "" if named else ", by number from 0"
    axis.set(xlabel=f"predicted class{where}", ylabel=f"true class{where}")
    axis.tick_params(length=0 if named else 2)
    axis.spines[:].set_visible(not named)
    bar = figure.colorbar(drawn, ax=axis, fraction=0.045, pad=0.02, label="share of the true class", format=percent())
    bar.outline.set_visible(False)
    return figure


def plot_labels(scores: Mapping[str, ClassScore]) -> Figure:
    """Bars of average precision and F1 of every label, the worst on top; of many, the worst.

    Args:
        scores: Scores of each label by its name; labels that no image has are left out.
    """
    known = [(name, row.average_precision or 0.0, row.f1 or 0.0) for name, row in scores.items() if row.f1 is not None]
    shown = sorted(known, key=lambda label: label[1])[:_NAMED][::-1]
    figure = new_figure(COLUMN * 1.3, 0.28 * len(shown) + 0.9)
    axis = figure.subplots()
    places = np.arange(len(shown))
    axis.barh(places + 0.2, [p for _, p, _ in shown], 0.38, color=COLORS[0], label="average precision")
    axis.barh(places - 0.2, [f1 for _, _, f1 in shown], 0.38, color=COLORS[1], label="F1")
    axis.set_yticks(places, [shorten(name, 24) for name, _, _ in shown])
    axis.set(xlim=(0, 1))
    axis.xaxis.set_major_formatter(percent())
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.1, ncols=2)
    open_axis(axis)
    return figure


def plot_reliability(reliability: Reliability) -> Figure:
    """Accuracy by confidence, with 95 % intervals (Wilson), and how many images have which confidence."""
    from matplotlib.patches import Patch

    figure = new_figure(COLUMN, COLUMN * 1.12)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
    counts = reliability.counts
    edges = np.linspace(0, 1, len(counts) + 1)
    filled = counts > 0
    width, centers = 0.94 * edges[1], ((edges[1:] + edges[:-1]) / 2)[filled]
    accuracy, confidence = reliability.accuracy[filled], reliability.confidence[filled]
    low, high = wilson(accuracy, counts[filled])
    gap: Any = dict(facecolor="none", edgecolor=COLORS[1], hatch="////", linewidth=0.6)
    many = counts[filled] >= _FEW
    for bins, alpha in ((many, 0.8), (~many, 0.25)):
        top.bar(centers[bins], accuracy[bins], width, color=COLORS[0], alpha=alpha, linewidth=0)
        top.bar(centers[bins], (confidence - accuracy)[bins], width, bottom=accuracy[bins], alpha=min(1, 2 * alpha), **gap)
    entries = [Patch(color=COLORS[0], alpha=0.8, label="accuracy"), Patch(label="gap to confidence", **gap)]
    interval = (accuracy - low, high - accuracy)
    top.errorbar(centers, accuracy, interval, fmt="none", color="black", capsize=1.5, linewidth=0.7, clip_on=False)
    top.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=0.8)
    top.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    top.legend(handles=entries, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.1, ncols=2)
    figure.suptitle(f"expected calibration error {reliability.expected_calibration_error:.1%}")
    bottom.bar(centers, counts[filled] / counts.sum(), width, color=GREY)
    bottom.set(xlabel="confidence", ylabel="images")
    bottom.xaxis.set_major_formatter(percent())
    for axis in (top, bottom):
        open_axis(axis)
        axis.yaxis.set_major_formatter(percent())
    return figure


def plot_risk_coverage(curve: RiskCoverage, accepted: float | None = None) -> Figure:
    """Error among the surest images by their share of all, with 95 % intervals (Wilson), beside the best order there is.

    Args:
        curve: What is drawn.
        accepted: Share of the images that the adapter's threshold accepts; None if it has none.
    """
    figure = new_figure(COLUMN, COLUMN * 0.85)
    axis = figure.subplots()
    counts = np.arange(1, len(curve.risk) + 1)
    low, high = wilson(curve.risk, counts)
    enough = counts >= _FEW
    axis.fill_between(curve.coverage[enough], low[enough], high[enough], color=COLORS[0], alpha=0.2, linewidth=0)
    axis.plot(curve.coverage, curve.risk, color=COLORS[0], label="surest first")
    right = len(counts) * (1 - curve.risk[-1])
    best = np.maximum(counts - right, 0) / counts
    axis.plot(curve.coverage, best, color=GREY, linestyle="--", linewidth=0.8, label="all that are right first")
    if accepted:
        place = round(accepted * len(counts)) - 1
        ring: Any = dict(marker="o", mfc="none", mec=COLORS[1], ms=8, linestyle="none")
        axis.plot(accepted, curve.risk[place], label=f"threshold: {accepted:.0%} accepted", **ring)
    axis.set(xlabel="coverage: share of images with an answer", ylabel="error among them", xlim=(0, 1), ylim=(0, None))
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.1, ncols=2)  # above: the curve may begin anywhere
    figure.suptitle(f"area under the curve {curve.area:.3f}")
    open_axis(axis)
    axis.xaxis.set_major_formatter(percent())
    axis.yaxis.set_major_formatter(percent())
    return figure
