"""Figures of gates: maps over an image, curves along the sequence, the scales of SVP by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from svp.inspection.activation import Activation, quarters, relative_change
from svp.plotting import COLOURS, DIVERGING, GREY, MARKERS, PAGE, SEQUENTIAL, Look, new_figure, open_axis, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage
    from matplotlib.ticker import Formatter

Array = npt.NDArray[np.float64]
Extent = tuple[float, float, float, float]

TITLES = {
    "update": "update gate\n|Δ B x|",
    "forget": "forget gate\nexp(Δ A)",
    "contribution": "part in the\nclass token",
}


def plot_gate_maps(image: Array, models: Mapping[str, Mapping[str, Array]], extent: Extent) -> Figure:
    """Maps of every gate laid over the image, model beside model, and how each differs from the first.

    Args:
        image: (height, width, 3), 0 to 1.
        models: Maps (rows, columns) by gate, by model, the base model first.
        extent: Left, right, bottom and top edge of the patches in pixels.
    """
    base, *tuned = models
    columns = 1 + len(models) + len(tuned)
    gates = list(models[base])
    size = (PAGE - 1.9) / columns
    figure = new_figure(PAGE, len(gates) * (size + 0.1) + 0.35)
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02)
    axes = figure.subplots(len(gates), columns, squeeze=False)
    for row, gate in zip(axes, gates, strict=True):
        shown, changes = row[1 : 1 + len(models)], row[1 + len(models) :]
        stack = np.stack([maps[gate] for maps in models.values()])
        ends = float(stack.min()), float(stack.max())
        drawn = [_overlay(axis, image, values, extent, SEQUENTIAL, *ends) for axis, values in zip(shown, stack, strict=True)]
        _colour_bar(figure, drawn[0], shown, percent() if gate == "contribution" else None)
        change = (stack[1:] - stack[0]) / stack[0].mean()
        limit = float(np.abs(change).max(initial=0)) or 1.0
        drawn = [
            _overlay(axis, image, values, extent, DIVERGING, -limit, limit)
            for axis, values in zip(changes, change, strict=True)
        ]
        if drawn:
            _colour_bar(figure, drawn[0], changes, percent(signed=True))
        row[0].imshow(image)
        row[0].set_ylabel(TITLES.get(gate, gate))
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for axis, title in zip(axes[0], ["image", *models, *(f"{name} \N{MINUS SIGN} {base}" for name in tuned)], strict=True):
        axis.set_title(title, fontsize="small")
    return figure


def _overlay(axis: Axes, image: Array, values: Array, extent: Extent, cmap: str, low: float, high: float) -> AxesImage:
    axis.imshow(0.55 + 0.45 * image.mean(axis=2), cmap="gray", vmin=0, vmax=1)  # pale: the colour is the map's
    return axis.imshow(values, cmap=cmap, vmin=low, vmax=high, alpha=0.75, extent=extent, interpolation="nearest")


def _colour_bar(figure: Figure, drawn: AxesImage, axes: Sequence[Axes], form: Formatter | None) -> None:
    from matplotlib.ticker import MaxNLocator

    bar = figure.colorbar(drawn, ax=list(axes), aspect=12, pad=0.015, fraction=0.04, shrink=0.94, format=form)
    bar.outline.set_visible(False)
    bar.locator = MaxNLocator(4)
    bar.ax.tick_params(length=2, labelsize="x-small")


def plot_activation(models: Mapping[str, Activation], looks: Mapping[str, Look], direction: str = "both") -> Figure:
    """Update and forget gate at every position of the sequence, and their change against the first model.

    Bands and bars are 95 % intervals of the mean over images.

    Args:
        models: By name, the base model first.
        looks: By the same names.
        direction: "forward", "backward" or "both", the mean of the two.
    """
    base, *_ = models.values()
    figure = new_figure(PAGE, 3.9)
    axes = figure.subplots(2, 2, sharex=True, width_ratios=(1, 1))
    for (left, right), gate in zip(axes, ("update", "forget"), strict=True):
        values = {name: model.of(gate, direction) for name, model in models.items()}
        reference = base.of(gate, direction)
        positions = np.arange(1, reference.shape[1] + 1)
        parts = quarters(reference.shape[1])
        for name, value in values.items():
            look = looks[name]
            mean, half = value.mean(axis=0), 1.96 * value.std(axis=0, ddof=min(1, len(value) - 1)) / np.sqrt(len(value))
            left.plot(positions, mean, label=name, color=look.colour, linestyle=look.line)
            left.fill_between(positions, mean - half, mean + half, color=look.colour, alpha=0.2, linewidth=0)
            if value is reference:
                continue
            each = relative_change(reference, value, list(positions[:, None] - 1))
            right.plot(positions, each.mean, color=look.colour, linewidth=0.5, alpha=0.7)
            whole = relative_change(reference, value, parts)
            for part, share, half_width in zip(parts, whole.mean, whole.half_width, strict=True):
                ends = [part[0] + 0.7, part[-1] + 1.3]
                right.plot(ends, [share, share], color=look.colour, linewidth=1.8, solid_capstyle="butt")
                right.fill_between(ends, share - half_width, share + half_width, color=look.colour, alpha=0.3, linewidth=0)
        right.axhline(0, color=GREY, linewidth=0.8)
        right.yaxis.set_major_formatter(percent(signed=True))
        name = TITLES[gate].replace("\n", " ")
        left.set_ylabel(name)
        right.set_ylabel(f"change of {gate} gate")
        for axis in (left, right):
            open_axis(axis)
            axis.margins(x=0.01)
            for part in parts[1:]:
                axis.axvline(part[0] + 0.5, color=GREY, linewidth=0.4, linestyle=":")
    for axis in axes[1]:
        axis.set_xlabel("position of the image token in the sequence")
    axes[0, 0].set_title("mean over layers and images")
    axes[0, 1].set_title(f"change relative to {next(iter(models))}")
    axes[0, 0].legend(ncols=len(models))
    return figure


def plot_scales(prompts: Mapping[str, Array]) -> Figure:
    """SVP by layer: the scales alpha and beta over the channels, and how large the prompts become.

    Args:
        prompts: ``Activation.prompts``.
    """
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(PAGE, 2.2)
    left, middle, right = figure.subplots(1, 3)
    layers = np.arange(len(prompts["alpha"]))
    kinds = (("alpha", "inner", "\N{GREEK SMALL LETTER ALPHA}"), ("beta", "cross", "\N{GREEK SMALL LETTER BETA}"))
    below = np.zeros(len(layers))
    for number, (scale, kind, letter) in enumerate(kinds):
        size = np.abs(prompts[scale])
        low, high = np.percentile(size, (10, 90), axis=1)
        look = dict(color=COLOURS[number], marker=MARKERS[number], markersize=3)
        left.plot(layers, size.mean(axis=1), label=f"{kind}, {letter}", **look)
        for percentile in (low, high):
            left.plot(layers, percentile, color=COLOURS[number], linewidth=0.6, linestyle=":")
        share = prompts[f"{kind}_share"]
        right.bar(layers, share, 0.85, bottom=below, color=COLOURS[number], alpha=0.85, label=kind)
        below = below + share
    left.set(ylabel="size of scale over channels", ylim=(0, None))
    left.legend(ncols=2, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.1)
    middle.plot(layers, prompts["relative_norm"], color=COLOURS[2], marker="o", markersize=3)
    middle.set(ylabel="prompt relative to its token", ylim=(0, None))
    middle.yaxis.set_major_formatter(percent())
    right.set(ylabel="share of the prompt", ylim=(0, 1))
    right.yaxis.set_major_formatter(percent())
    right.legend(ncols=2, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.1)
    for axis in (left, middle, right):
        open_axis(axis)
        axis.set(xlabel="layer", xlim=(-0.6, len(layers) - 0.4))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure
