"""Rows of the suite as a table, as JSON and as a figure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from svp.bench.suite import Row
from svp.paths import write_atomically
from svp.terminal import make_table

_COLOURS = ("#0072B2", "#D55E00")  # Okabe and Ito's


def to_table(rows: Sequence[Row]) -> Table:
    """Medians with the quartiles behind them."""
    numbers = ("batch", "pixels", "median", "quartiles")
    table = make_table(
        "section", "model", "work", "precision", "batch", "pixels", "of", "median", "quartiles", "unit", right=numbers
    )
    for row in rows:
        case = row.case
        spread = "" if row.low == row.high else f"{_number(row.low)} to {_number(row.high)}"
        names = (row.section, case.model, case.mode, case.precision, str(case.batch_size), str(case.img_size), row.of)
        table.add_row(*names, _number(row.value), spread, row.unit)
    return table


def write_json(rows: Sequence[Row], machine: dict[str, Any], path: Path) -> None:
    """Machine and rows, all numbers in full."""
    text = json.dumps({"machine": machine, "rows": [asdict(row) for row in rows]}, indent=2) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_resolution_figure(rows: Sequence[Row], path: Path) -> bool:
    """Time and memory per image over the side of the image, as PNG; returns whether there was anything to draw."""
    import matplotlib as mpl

    rows = [row for row in rows if row.section == "resolution"]
    if not rows:
        return False
    with mpl.rc_context({"font.size": 8.5, "axes.linewidth": 0.7}):
        figure = _draw(rows)
        write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=200, format="png"))
    return True


def _draw(rows: Sequence[Row]) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.6, 2.7), layout="constrained")
    FigureCanvasAgg(figure)
    time_axis, memory_axis = figure.subplots(1, 2)
    vim = next(row.case.model for row in rows if row.of == "svp")
    vit = next(row.of for row in rows if row.of != "svp")
    ours = {row.case.img_size: 1000 / row.value for row in rows if row.of == "svp" and row.unit == "images/s"}
    theirs = {row.case.img_size: row.value * ours[row.case.img_size] for row in rows if row.unit == "of our time"}
    memory = {of: {r.case.img_size: r.value for r in rows if r.of == of and r.unit == "MB per image"} for of in ("svp", vit)}
    for axis, lines, label in (
        (time_axis, (ours, theirs), "forward pass, ms per image"),
        (memory_axis, (memory["svp"], memory[vit]), "training step, MB per image"),
    ):
        for (name, points), colour, marker in zip(zip((vim, vit), lines, strict=True), _COLOURS, "oD", strict=True):
            axis.plot(list(points), list(points.values()), marker=marker, ms=4, lw=1.3, color=colour, label=name)
        axis.set_xlabel("side of the image (pixels)")
        axis.set_ylabel(label)
        axis.set_xticks(list(lines[0]))
        axis.set_ylim(bottom=0)
        axis.grid(color="#777777", alpha=0.25, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    time_axis.legend(frameon=False)
    return figure


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"
