"""Figures of gates: maps over an image, curves along the sequence, what is added to the tokens by layer."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from svp.inspection.activation import Activation, quarters, relative_change
from svp.plotting import COLORS, DIVERGING, GREY, MARKERS, PAGE, SEQUENTIAL, Look, new_figure, open_axis, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage
    from matplotlib.ticker import Formatter

Array = npt.NDArray[np.float64]
_SHOWN = 0.98
"""Share of the changes within the color scale: a few strong ones do not hide the others."""
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
    gates = list(models[base])
    titles = ["image", *models, *(f"{name} \N{MINUS SIGN} {base}" for name in tuned)]
    figure, axes = _grid_of_maps(image, [TITLES.get(gate, gate) for gate in gates], titles, bars=2)
    for row, gate in zip(axes, gates, strict=True):
        shown, changes = row[1 : 1 + len(models)], row[1 + len(models) :]
        stack = np.stack([maps[gate] for maps in models.values()])
        ends = float(stack.min()), float(stack.max())
        drawn = [_overlay(axis, image, values, extent, SEQUENTIAL, *ends) for axis, values in zip(shown, stack, strict=True)]
        _color_bar(figure, drawn[0], shown[None], percent() if gate == "contribution" else None)
        if not tuned:
            continue
        change = (stack[1:] - stack[0]) / stack[0].mean()
        limit = float(np.quantile(np.abs(change), _SHOWN)) or float(np.abs(change).max()) or 1.0
        drawn = [
            _overlay(axis, image, values, extent, DIVERGING, -limit, limit)
            for axis, values in zip(changes, change, strict=True)
        ]
        _color_bar(figure, drawn[0], changes[None], percent(signed=True), beyond=bool(np.abs(change).max() > limit))
    return figure


def plot_prompt_maps(image: Array, models: Mapping[str, Mapping[str, Array]], extent: Extent) -> Figure:
    """What methods add to the tokens laid over the image, a row per model.

    Args:
        image: (height, width, 3), 0 to 1.
        models: Maps (rows, columns) by model and by the names of ``PromptRecord.tokens``.
        extent: Left, right, bottom and top edge of the patches in pixels.
    """
    names = list(dict.fromkeys(name for maps in models.values() for name in maps))
    shares = [name for name in names if name.endswith("_share")]
    titles = {"norm": "norm of the prompt", "relative_norm": "relative to its token"}
    titles |= {name: f"share of {name.removesuffix('_share')} prompt" for name in shares}
    figure, axes = _grid_of_maps(image, list(models), ["image", *(titles[name] for name in names)], bars=len(names))
    blank = np.full_like(next(iter(next(iter(models.values())).values())), np.nan)  # another method has another part
    for column, name in enumerate(names, start=1):
        stack = np.stack([maps.get(name, blank) for maps in models.values()])
        cmap, low, high = SEQUENTIAL, float(np.nanmin(stack)), float(np.nanmax(stack))
        if name in shares:  # white where all parts are as strong
            middle = 1 / len(shares)
            spread = float(np.nanmax(np.abs(stack - middle))) or middle
            cmap, low, high = DIVERGING, middle - spread, middle + spread
        for axis, values in zip(axes[:, column], stack, strict=True):
            drawn = _overlay(axis, image, values, extent, cmap, low, high)
        _color_bar(figure, drawn, axes[:, column, None], None if name == "norm" else percent())
    return figure


def _grid_of_maps(image: Array, rows: Sequence[str], titles: Sequence[str], bars: int) -> tuple[Figure, npt.NDArray[Any]]:
    """A row of axes under each title's column, the image in the first; `bars` color bars will stand in a row."""
    side = (PAGE - 0.4 - 0.55 * bars) / len(titles)
    wide = max(6, round(side / 0.058))  # characters above a map
    wrapped = [fill(title, wide) for title in titles]
    lines = 1 + max(title.count("\n") for title in wrapped)
    figure = new_figure(PAGE, len(rows) * (side + 0.1) + 0.13 * lines + 0.1)
    figure.set_layout_engine("constrained", w_pad=0.03, h_pad=0.02)
    axes = figure.subplots(len(rows), len(titles), squeeze=False)
    for row, label in zip(axes, rows, strict=True):
        row[0].imshow(image)
        row[0].set_ylabel(label if "\n" in label else fill(label, max(6, round(side / 0.062))))
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for axis, title in zip(axes[0], wrapped, strict=True):
        axis.set_title(title, fontsize="small")
    return figure, axes


def _overlay(axis: Axes, image: Array, values: Array, extent: Extent, cmap: str, low: float, high: float) -> AxesImage:
    axis.imshow(0.55 + 0.45 * image.mean(axis=2), cmap="gray", vmin=0, vmax=1)  # pale: the color is the map's
    return axis.imshow(values, cmap=cmap, vmin=low, vmax=high, alpha=0.75, extent=extent, interpolation="nearest")


def _color_bar(figure: Figure, drawn: AxesImage, axes: npt.NDArray[Any], form: Formatter | None, beyond: bool = False) -> None:
    """One as high as all of `axes`, rows of squares; pointed if there are values `beyond` its ends."""
    from matplotlib.ticker import MaxNLocator

    down, across = axes.shape
    place = dict(aspect=12 * down, fraction=0.08 / across, pad=0.02, shrink=0.94)
    bar = figure.colorbar(drawn, ax=axes, format=form, extend="both" if beyond else "neither", extendfrac=0.06, **place)
    bar.outline.set_visible(False)
    bar.locator = MaxNLocator(4)
    bar.ax.tick_params(length=2, labelsize="x-small")


def plot_activation(models: Mapping[str, Activation], looks: Mapping[str, Look], direction: str = "both") -> Figure:
    """Update and forget gate along the sequence, their change against the first model, and the same by quarter.

    Bands and bars are 95 % intervals of the mean over images.

    Args:
        models: Records by the model's name, the base model first.
        looks: Color, line and marker by the same names.
        direction: "forward", "backward" or "both", the mean of the two.
    """
    base, *tuned = models
    figure = new_figure(PAGE, 3.7)
    axes = figure.subplots(2, 3, sharex="col", width_ratios=(3, 3, 2))
    for row, gate in zip(axes, ("update", "forget"), strict=True):
        values = {name: model.of(gate, direction) for name, model in models.items()}
        parts = quarters(values[base].shape[1])
        along, change, by_quarter = row
        for place, (name, value) in enumerate(values.items()):
            _draw_along(along, value, looks[name], name, above=len(values) - place)  # what is drawn first stays seen
        for place, name in enumerate(tuned):
            _draw_change(change, values[base], values[name], looks[name], above=len(values) - place)
            shift = 0.16 * (place - (len(tuned) - 1) / 2)
            _draw_quarters(by_quarter, values[base], values[name], looks[name], shift)
        along.set_ylabel(TITLES[gate].replace("\n", " "))
        change.set_ylabel(f"change of {gate} gate")
        for axis in (along, change):
            axis.margins(x=0.01)
            for part in parts[1:]:
                axis.axvline(part[0] + 0.5, color=GREY, linewidth=0.4, linestyle=":")
        for axis in (change, by_quarter):
            axis.axhline(0, color=GREY, linewidth=0.8, zorder=1)
            axis.yaxis.set_major_formatter(percent(signed=True))
        for axis in row:
            open_axis(axis)
    for axis in axes[1, :2]:
        axis.set_xlabel("position of the image token")
    axes[1, 2].set_xlabel("quarter")
    axes[1, 2].set_xticks(range(5), ["1", "2", "3", "4", "all"])
    titles = ("mean over layers and images", f"change relative to {base}", "the same by quarter")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title)
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=min(len(models), 5))
    return figure


def _draw_along(axis: Axes, values: Array, look: Look, name: str, above: int) -> None:
    """Mean and interval of (images, num_patches) at every position."""
    positions = np.arange(1, values.shape[1] + 1)
    mean, half = values.mean(axis=0), 1.96 * values.std(axis=0, ddof=min(1, len(values) - 1)) / np.sqrt(len(values))
    axis.plot(positions, mean, label=name, color=look.color, linestyle=look.line, zorder=2 + above)
    axis.fill_between(positions, mean - half, mean + half, color=look.color, alpha=0.15, linewidth=0)


def _draw_change(axis: Axes, base: Array, values: Array, look: Look, above: int) -> None:
    """Relative change at every position."""
    positions = np.arange(1, base.shape[1] + 1)
    change = relative_change(base, values, list(positions[:, None] - 1))
    low, high = change.mean - change.half_width, change.mean + change.half_width
    axis.plot(positions, change.mean, color=look.color, linestyle=look.line, linewidth=0.9, zorder=2 + above)
    axis.fill_between(positions, low, high, color=look.color, alpha=0.2, linewidth=0)


def _draw_quarters(axis: Axes, base: Array, values: Array, look: Look, shift: float) -> None:
    """Relative change in every quarter and in all of the sequence, moved sideways by `shift`."""
    change = relative_change(base, values, [*quarters(base.shape[1]), slice(None)])
    places = np.arange(5) + shift
    bar: Any = dict(fmt=look.marker, color=look.color, markersize=3.5, elinewidth=1, capsize=1.5, capthick=0.8)
    axis.errorbar(places, change.mean, np.nan_to_num(change.half_width), **bar)


def plot_scales(prompts: Mapping[str, Array]) -> Figure:
    """What a method adds to the tokens, by layer: its scales over the channels, and how large the prompts become.

    Args:
        prompts: ``Activation.prompts``.
    """
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(PAGE, 2.2)
    left, middle, right = figure.subplots(1, 3)
    layers = np.arange(len(prompts["norm"]))
    above: Any = dict(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.1)
    parts = [name.removesuffix("_share") for name in prompts if name.endswith("_share")]
    scales = [name for name, values in prompts.items() if values.ndim == 2]
    for number, (scale, part) in enumerate(zip(scales, parts, strict=False)):  # a method may scale nothing
        size, color = np.abs(prompts[scale]), COLORS[number]
        label = f"{part}, {_letter(scale)}"
        left.plot(layers, size.mean(axis=1), label=label, color=color, marker=MARKERS[number], markersize=3)
        left.fill_between(layers, *np.percentile(size, (10, 90), axis=1), color=color, alpha=0.12, linewidth=0.6)
    below = np.zeros(len(layers))
    for number, part in enumerate(parts):
        share = prompts[f"{part}_share"]
        right.bar(layers, share, 0.85, bottom=below, color=COLORS[number], alpha=0.85, label=part)
        below = below + share
    left.set(ylabel="size of the scale", ylim=(0, None))
    if scales:
        left.legend(ncols=2, **above)
    middle.plot(layers, prompts["relative_norm"], color=COLORS[2], marker="o", markersize=3)
    middle.set(ylabel="norm relative to the token", ylim=(0, None))
    middle.yaxis.set_major_formatter(percent())
    right.set(ylabel="share of the prompt", ylim=(0, 1))
    right.yaxis.set_major_formatter(percent())
    right.legend(ncols=2, **above)
    for axis in (left, middle, right):
        open_axis(axis)
        axis.set(xlabel="layer", xlim=(-0.6, len(layers) - 0.4))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _letter(name: str) -> str:
    """A Greek letter by its name; another name stays."""
    try:
        return unicodedata.lookup(f"GREEK SMALL LETTER {name.upper()}")
    except KeyError:
        return name
