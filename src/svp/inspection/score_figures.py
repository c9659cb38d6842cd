"""Figures of what a model says of labelled images: its features, its mistakes, its confidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from svp.inspection.predictions import Reliability
from svp.plotting import COLOURS, COLUMN, GREY, MARKERS, PAGE, new_figure, open_axis, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_NAMED = 30
"""Classes whose names fit beside a confusion matrix."""


def plot_features(embedded: Mapping[str, Array], labels: Integers, class_names: Sequence[str]) -> Figure:
    """Features in two dimensions, one panel per model, one colour and marker per class.

    Args:
        embedded: By the title of the panel, (images, 2).
        labels: (images,)
        class_names: By label; of more classes than can be told apart, the frequent ones are coloured.
    """
    looks = [(shade, marker) for marker in MARKERS for shade in COLOURS]
    frequent = np.argsort(-np.bincount(labels, minlength=len(class_names)), kind="stable")[: len(looks)]
    coloured = sorted(int(label) for label in frequent if label in labels)
    size = (PAGE - 0.9) / max(len(embedded), 2)
    figure = new_figure(size * len(embedded) + 0.9, size + 0.2)
    for axis, (title, points) in zip(figure.subplots(1, len(embedded), squeeze=False)[0], embedded.items(), strict=True):
        others = ~np.isin(labels, coloured)
        axis.scatter(*points[others].T, s=6, color=GREY, alpha=0.3, linewidth=0)
        for (shade, marker), label in zip(looks, coloured, strict=False):
            chosen = points[labels == label]
            axis.scatter(*chosen.T, s=11, color=shade, marker=marker, alpha=0.8, linewidth=0, label=class_names[label])
        axis.set(xticks=[], yticks=[], title=title)
        axis.set_box_aspect(1)
        for spine in axis.spines.values():
            spine.set_color("#bbbbbb")
    handles, names = axis.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right center", handletextpad=0.1)
    return figure


def plot_confusion(confusion: Integers, class_names: Sequence[str]) -> Figure:
    """Share of every class's images that was taken for which class; counts where they fit."""
    classes = len(class_names)
    named = classes <= _NAMED
    side = min(PAGE, max(COLUMN, 0.28 * classes + 1.0)) if named else PAGE
    figure = new_figure(side, side * 0.86)
    axis = figure.subplots()
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    drawn = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if named:
        axis.set_xticks(range(classes), class_names, rotation=90 if max(map(len, class_names)) > 3 else 0)
        axis.set_yticks(range(classes), class_names)
        for row, column in zip(*np.nonzero(confusion), strict=True):
            dark = shares[row, column] > 0.55
            shade = "white" if dark else "black"
            axis.text(column, row, confusion[row, column], ha="center", va="center", fontsize="x-small", color=shade)
    axis.set(xlabel="predicted class", ylabel="true class")
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    bar = figure.colorbar(drawn, ax=axis, fraction=0.045, pad=0.02, label="share of the true class", format=percent())
    bar.outline.set_visible(False)
    return figure


def plot_images(images: Sequence[Array], captions: Sequence[str], columns: int = 6) -> Figure:
    """Images in a grid, each with its caption: (height, width, 3), 0 to 1."""
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    cell = PAGE / 6
    figure = new_figure(cell * columns, (cell + 0.16) * rows)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, image, caption in zip(axes.flat, images, captions, strict=False):
        axis.imshow(image)
        axis.set_title(caption, fontsize="small")
    return figure


def plot_reliability(reliability: Reliability) -> Figure:
    """Accuracy by confidence, with 95 % intervals (Wilson), and how many images have which confidence."""
    figure = new_figure(COLUMN, COLUMN * 1.12)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
    counts = reliability.counts
    edges = np.linspace(0, 1, len(counts) + 1)
    filled = counts > 0
    width, centres = 0.94 * edges[1], ((edges[1:] + edges[:-1]) / 2)[filled]
    accuracy, confidence = reliability.accuracy[filled], reliability.confidence[filled]
    low, high = _wilson(accuracy, counts[filled])
    gap = dict(color="none", edgecolor=COLOURS[1], hatch="////", linewidth=0.6)
    top.bar(centres, accuracy, width, color=COLOURS[0], alpha=0.8, label="accuracy")
    top.bar(centres, confidence - accuracy, width, bottom=accuracy, label="gap to confidence", **gap)
    interval = (accuracy - low, high - accuracy)
    top.errorbar(centres, accuracy, interval, fmt="none", color="black", capsize=1.5, linewidth=0.7, clip_on=False)
    top.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=0.8)
    top.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    top.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.1, ncols=2)
    figure.suptitle(f"expected calibration error {reliability.expected_calibration_error:.1%}", fontsize="medium")
    bottom.bar(centres, counts[filled] / counts.sum(), width, color=GREY)
    bottom.set(xlabel="confidence", ylabel="images")
    bottom.xaxis.set_major_formatter(percent())
    for axis in (top, bottom):
        open_axis(axis)
        axis.yaxis.set_major_formatter(percent())
    return figure


def _wilson(share: Array, n: Integers) -> tuple[Array, Array]:
    """95 % interval of a share of n."""
    z = 1.96
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return np.minimum(centre - half, share), np.maximum(centre + half, share)
