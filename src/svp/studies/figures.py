"""Figures of a comparison: every method in its own look, the reference marked, as PNG and PDF."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from svp.plotting import (
    BASE,
    COLORS,
    FONT_SIZE,
    GREY,
    SEQUENTIAL,
    SMALL,
    Look,
    log_scale,
    looks,
    new_figure,
    open_axis,
    save,
    style,
)
from svp.studies.comparison import Comparison
from svp.studies.search import Search, Trial
from svp.studies.statistics import Spread
from svp.studies.study import Study, grid_points
from svp.tuners import method_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

_MARKED = COLORS[1]
_PANELS_PER_ROW = 4


def write_figures(comparison: Comparison) -> dict[str, list[Path]]:
    """Write what can be drawn into the study's folder: name -> its files."""
    drawings: dict[str, Callable[[Comparison], Figure]] = {"accuracy": accuracy_figure}
    if comparison.ranking(list(comparison.study.columns)[-1]):  # not if every method lacks runs of a data set
        drawings["parameters"] = parameters_figure
        if len(comparison.study.data) > 1 and len(comparison.study.methods) > 1:
            drawings = {"summary": summary_figure, **drawings}
    if len(comparison.study.grid) in (1, 2):
        drawings = {"sensitivity": line_figure if len(comparison.study.grid) == 1 else heat_map_figure}
    if not comparison.results:
        return {}
    with style():
        return {name: save(draw(comparison), comparison.folder / name) for name, draw in drawings.items()}


@dataclass(frozen=True)
class _Series:
    """A method of a study as figures show it."""

    title: str
    look: Look


def _series(study: Study) -> dict[str, _Series]:
    """By the study's label of the method."""
    methods = {cell.method: cell.config.method for cell in study.cells}
    titles = {label: method_title(label) if label == method else label for label, method in methods.items()}
    if study.reference is not None:
        titles[study.reference] += " (reference)"
    return {label: _Series(titles[label], look) for label, look in zip(methods, looks(list(methods.values())), strict=True)}


def summary_figure(comparison: Comparison) -> Figure:
    """Mean over all data sets with its 95 % interval, the best method on top, the trained parameters beside it."""
    study, column = comparison.study, list(comparison.study.columns)[-1]
    series, ranking = _series(study), comparison.ranking(column)
    figure = new_figure(5.6, 0.8 + 0.2 * len(ranking))
    axis = figure.subplots()
    for place, method in enumerate(ranking):
        top1, look = comparison.top1(method, column), series[method].look
        assert top1 is not None
        half = None if top1.interval is None else 100 * (top1.mean - top1.interval[0])
        axis.errorbar(
            100 * top1.mean, place, xerr=half, fmt=look.marker, ms=6, color=look.color, mec="white", mew=0.6, elinewidth=1.3
        )
        counts = [comparison.findings[data, method].mean("trainable_parameters_without_head") for data in study.data]
        trained = max((count for count in counts if count is not None), default=0.0)
        axis.annotate(
            f"{trained:,.0f}",
            (1.16, place),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="center_baseline",
            fontsize=SMALL,
        )
    if study.reference in ranking and (reference := comparison.top1(study.reference, column)) is not None:
        axis.axvline(100 * reference.mean, color=BASE.color, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    header = "trained parameters,\nwithout head"
    axis.annotate(header, (1.16, -0.7), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=SMALL)
    axis.set_yticks(range(len(ranking)), [series[method].title for method in ranking])
    axis.set_ylim(len(ranking) - 0.4, -0.6)
    open_axis(axis, grid="x")
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    axis.margins(x=0.06)
    low, high = axis.get_xlim()
    axis.set_xlim(max(low, -1), min(high, 101))  # an interval over two seeds may end beyond what a score can be
    seeds = len(study.seeds)
    bars = "one seed" if seeds == 1 else f"bars: 95 % interval over {seeds} seeds"
    axis.set_xlabel(f"test top-1 (%), mean over {len(study.data)} data sets; {bars}")
    return figure


def accuracy_figure(comparison: Comparison) -> Figure:
    """Test top-1 of every method, a panel per column of the tables: seeds as rings, their mean and standard deviation."""
    study = comparison.study
    methods, columns = _series(study), list(study.columns)
    high = math.ceil(len(columns) / _PANELS_PER_ROW)
    wide = math.ceil(len(columns) / high)
    label_width = 0.065 * max(len(series.title) for series in methods.values())
    figure = new_figure(label_width + 0.4 + 2.1 * wide if wide > 1 else label_width + 3.6, high * (0.75 + 0.24 * len(methods)))
    axes = figure.subplots(high, wide, squeeze=False, sharey=True)
    for axis in axes.flat[len(columns) :]:
        axis.set_visible(False)
    for axis, column in zip(axes.flat, columns, strict=False):
        for place, (method, series) in enumerate(methods.items()):
            _draw_method(axis, comparison, method, column, place, series.look)
        reference = comparison.top1(study.reference, column) if study.reference else None
        if reference:
            axis.axvline(100 * reference.mean, color=BASE.color, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
        axis.set_title(_over(comparison, column))
        axis.set_yticks(range(len(methods)), [series.title for series in methods.values()])
        axis.set_ylim(len(methods) - 0.4, -0.6)
        open_axis(axis, grid="x")
        axis.tick_params(axis="y", length=0)
        axis.spines["left"].set_visible(False)
        axis.margins(x=0.08)
    figure.supxlabel(f"test top-1 (%), {_seeds(comparison)}", fontsize=FONT_SIZE)
    return figure


def _draw_method(
    axis: Axes, comparison: Comparison, method: str, column: str, place: int, look: Look, *, upright: bool = False
) -> None:
    """Scores of a method at its place: along x, or along y if `upright`."""
    scores = comparison.top1(method, column)
    if scores is None:
        return
    parts = comparison.scores(method, column)
    seeds = [100 * np.mean([part[seed] for part in parts]) for seed in parts[0] if all(seed in part for part in parts)]
    std = 100 * scores.std if scores.std is not None else None
    places = [place] * len(seeds)
    axis.plot(*((places, seeds) if upright else (seeds, places)), "o", mfc="none", mec=look.color, mew=0.7, alpha=0.6)
    mean: Any = {"x": 100 * scores.mean, "y": place, "xerr": std}
    if upright:
        mean = {"x": place, "y": 100 * scores.mean, "yerr": std}
    axis.errorbar(**mean, fmt=look.marker, ms=5, color=look.color, elinewidth=1.3, capsize=0)


def parameters_figure(comparison: Comparison) -> Figure:
    """Test top-1 over the number of trained parameters with head, a point per method, named at the right."""
    study = comparison.study
    column = list(study.columns)[-1]
    methods, points = _series(study), {}
    for method in study.methods:
        scores = comparison.top1(method, column)
        trained = [comparison.findings[data, method].mean("trainable_parameters") for data in study.columns[column]]
        if scores and None not in trained:
            points[method] = (float(np.mean([count for count in trained if count])), 100 * scores.mean, scores.std)
    figure = new_figure(5.6, max(2.8, 0.6 + 0.17 * len(points)))
    axis = figure.subplots()
    for method, (trained_count, top1, std) in points.items():
        look, error = methods[method].look, 100 * std if std is not None else None
        axis.errorbar(trained_count, top1, yerr=error, fmt=look.marker, ms=5, color=look.color, elinewidth=1, capsize=0)
    log_scale(axis)
    axis.set_xlabel("trained parameters, with head" + ("" if len(study.columns[column]) == 1 else ", mean over data sets"))
    axis.set_ylabel(f"test top-1 (%), {_over(comparison, column)}")
    open_axis(axis, grid="both")
    axis.margins(x=0.08, y=0.1)
    named = {methods[method].title: (x, y) for method, (x, y, _) in points.items()}
    _name_at_the_right(axis, figure.get_figheight(), named)
    return figure


def heat_map_figure(comparison: Comparison) -> Figure:
    """Mean test top-1 over a grid of two options, a panel per column; a frame marks the best point on validation images."""
    (down, rows), (across, columns) = comparison.study.grid.items()
    panels = list(comparison.study.columns)
    figure = new_figure(1.2 + len(panels) * (0.9 + 0.55 * len(columns)), 1.3 + 0.36 * len(rows))
    for axis, panel in zip(figure.subplots(1, len(panels), squeeze=False, sharey=True)[0], panels, strict=True):
        shown = [[_at(comparison, f"{down} {row}, {across} {column}", panel) for column in columns] for row in rows]
        values = np.array([[100 * cell.mean if cell else np.nan for cell in line] for line in shown])
        image = axis.imshow(values, cmap=SEQUENTIAL, aspect="auto")
        middle = np.nanmean([np.nanmin(values), np.nanmax(values)]) if np.isfinite(values).any() else 0
        for (i, j), value in np.ndenumerate(values):
            text = "-" if np.isnan(value) else f"{value:.1f}"
            axis.text(j, i, text, ha="center", va="center", color="black" if value > middle else "white")
        best = _best_on_validation(comparison, panel)
        if best is not None:
            place = (columns.index(best[across]) - 0.47, rows.index(best[down]) - 0.47)
            axis.add_patch(_frame(place))
        axis.set_xticks(range(len(columns)), [str(value) for value in columns])
        axis.set_yticks(range(len(rows)), [str(value) for value in rows])
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        axis.set(title=_over(comparison, panel), xlabel=across)
        figure.colorbar(image, ax=axis, shrink=0.9).outline.set_visible(False)
    figure.axes[0].set_ylabel(down)
    seeds = len(comparison.study.seeds)
    of = "one seed" if seeds == 1 else f"mean of {seeds} seeds"
    figure.supxlabel(f"test top-1 (%), {of}; framed: best on validation images", fontsize=FONT_SIZE)
    return figure


def line_figure(comparison: Comparison) -> Figure:
    """Test top-1 over the values of one option, a panel per column: seeds as rings, their mean and standard deviation."""
    ((option, values),) = comparison.study.grid.items()
    (look,) = looks([comparison.study.cells[0].config.method])
    panels = list(comparison.study.columns)
    figure = new_figure(0.8 + 2.6 * len(panels), 2.7)
    for axis, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        means = [_at(comparison, f"{option} {value}", panel) for value in values]
        line = [100 * mean.mean if mean else np.nan for mean in means]
        axis.plot(range(len(values)), line, color=look.color, linewidth=0.8, alpha=0.6)
        for place, value in enumerate(values):
            if f"{option} {value}" in comparison.study.methods:
                _draw_method(axis, comparison, f"{option} {value}", panel, place, look, upright=True)
        axis.set_xticks(range(len(values)), [str(value) for value in values])
        axis.set_xlim(-0.5, len(values) - 0.5)
        open_axis(axis)
        axis.set(title=_over(comparison, panel), xlabel=option)
    figure.axes[0].set_ylabel("test top-1 (%)")
    figure.supxlabel(_seeds(comparison), fontsize=FONT_SIZE)
    return figure


def _at(comparison: Comparison, point: str, column: str) -> Spread | None:
    """The scores of a point of the grid; None if it takes no part or runs are missing."""
    return comparison.top1(point, column) if point in comparison.study.methods else None


def _best_on_validation(comparison: Comparison, column: str) -> dict[str, Any] | None:
    """The point of the grid with the highest mean top-1 on validation images; None if runs are missing or have none."""
    means = {}
    for method in comparison.study.methods:
        found = [comparison.findings[data, method].results.values() for data in comparison.study.columns[column]]
        results = [result for part in found for result in part]
        if not all(found) or any(result.protocol != "validation" for result in results):
            return None
        means[method] = np.mean([result.selection_top1 or 0.0 for result in results])
    return grid_points(comparison.study.grid)[max(means, key=means.__getitem__)]


def _frame(corner: tuple[float, float]) -> Patch:
    from matplotlib.patches import Rectangle

    return Rectangle(corner, 0.94, 0.94, fill=False, edgecolor=_MARKED, linewidth=2)


def search_figure(search: Search, trials: Sequence[Trial]) -> Figure:
    """Best top-1 on validation images of every trial, a panel per option: discs reached the end, crosses did not."""
    figure = new_figure(0.8 + 2.3 * len(search.space), 2.7)
    for axis, (name, part) in zip(figure.subplots(1, len(search.space), squeeze=False)[0], search.space.items(), strict=True):
        for state, marker, color in (("pruned", "x", GREY), ("complete", "o", COLORS[0])):
            shown = [trial for trial in trials if trial.state == state and trial.top1 is not None]
            places = [part.index(trial.point[name]) if isinstance(part, tuple) else trial.point[name] for trial in shown]
            axis.plot(places, [100 * (trial.top1 or 0) for trial in shown], marker, ms=4.5, color=color, mew=0.9, alpha=0.8)
        if trials and trials[0].state == "complete":
            value = trials[0].point[name]
            place = part.index(value) if isinstance(part, tuple) else value
            axis.plot(place, 100 * (trials[0].top1 or 0), "D", ms=6, color=_MARKED)
        if isinstance(part, tuple):
            axis.set_xticks(range(len(part)), [str(value) for value in part])
            axis.set_xlim(-0.5, len(part) - 0.5)
        elif part.log:
            log_scale(axis)
        open_axis(axis)
        axis.set_xlabel(name)
    figure.axes[0].set_ylabel("validation top-1 (%)")
    figure.supxlabel("diamond: best; discs: reached the end; crosses: stopped early", fontsize=FONT_SIZE)
    return figure


def write_search_figure(search: Search, trials: Sequence[Trial], folder: Path) -> list[Path]:
    """Draw a search into its folder; returns the files."""
    with style():
        return save(search_figure(search, trials), folder / "search")


def _name_at_the_right(axis: Axes, height: float, points: dict[str, tuple[float, float]]) -> None:
    """Labels in a column beside the axis of a figure `height` inches high, each joined to its point by a hairline.

    They stand in the order of the points' heights.
    """
    low, high = axis.get_ylim()
    ordered = sorted(points, key=lambda name: points[name][1])
    wanted = np.array([(points[name][1] - low) / (high - low) for name in ordered])
    step = min(0.2 / height, 1.0 / max(len(ordered), 1))  # a line of text, as a share of the axis
    for name, place in zip(ordered, _apart(wanted, step), strict=True):
        axis.annotate(
            name, xy=points[name], xytext=(1.06, place), textcoords="axes fraction", va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.5, "shrinkA": 2, "shrinkB": 4,
                        "relpos": (0, 0.5)},
        )  # fmt: skip


def _apart(heights: np.ndarray, step: float) -> np.ndarray:
    """Ascending heights moved as little as is needed (by least squares) to lie `step` apart: isotonic regression."""
    from sklearn.isotonic import IsotonicRegression

    offsets = step * np.arange(len(heights))
    fitted = IsotonicRegression().fit_transform(np.arange(len(heights)), heights - offsets) + offsets
    return np.asarray(fitted)


def _over(comparison: Comparison, column: str) -> str:
    """A column's name with what it is the mean over."""
    members = comparison.study.columns[column]
    if members == (column,):
        return column
    return f"{column} over {len(members)} data sets" if column == "mean" else f"{column}, {len(members)} data sets"


def _seeds(comparison: Comparison) -> str:
    seeds = len(comparison.study.seeds)
    return "one seed" if seeds == 1 else f"{seeds} seeds: mean and standard deviation"
