"""Rows of the suite as a table, as JSON and as a figure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from svp.bench.cases import Case
from svp.bench.limit import PARTS
from svp.bench.suite import Row
from svp.paths import write_atomically
from svp.plotting import COLORS, MARKERS, PAGE, log_scale, new_figure, open_axis, save, style
from svp.terminal import make_table


def to_tables(rows: Sequence[Row]) -> list[Table]:
    """The sections "speed" and "parts" in a table each, the others together."""
    makers = {"speed": to_limit_table, "parts": to_parts_table}
    found: dict[Any, list[Row]] = {}
    for row in rows:
        found.setdefault(makers.get(row.section, to_table), []).append(row)
    return [make(own) for make, own in found.items()]


def to_limit_table(rows: Sequence[Row]) -> Table:
    """A line per case of the section "speed": images per second, the parts of the limit in ms, the share of the limit."""
    columns = ("batch", "pixels", "images/s", "ms", *PARTS, "share")
    table = make_table("model", "work", "precision", *columns, right=columns)
    found: dict[Case, dict[str, float]] = {}
    for row in rows:
        found.setdefault(row.case, {})[row.of] = row.value
    for case, values in found.items():
        parts = (_number(values[part]) if part in values else "" for part in PARTS)
        numbers = (_number(values["svp"]), _number(1000 * case.batch_size / values["svp"]), *parts, f"{values['limit']:.2f}")
        table.add_row(case.model, case.mode, case.precision, str(case.batch_size), str(case.img_size), *numbers)
    return table


def to_parts_table(rows: Sequence[Row]) -> Table:
    """A line per case and part of the section "parts": its time, its floor, and what lies between them."""
    right = ("batch", "ms", "at least", "between")
    table = make_table("model", "work", "precision", "batch", "part", *right[1:], right=right)
    floors = {(row.case, row.of): row.value for row in rows if row.unit == "ms at least"}
    for row in rows:
        if row.unit == "ms":
            case, floor = row.case, floors[row.case, row.of]
            names = (case.model, case.mode, case.precision, str(case.batch_size), row.of)
            table.add_row(*names, *map(_number, (row.value, floor, max(0.0, row.value - floor))))
    return table


def to_table(rows: Sequence[Row]) -> Table:
    """Medians with the quartiles behind them."""
    numbers = ("batch", "pixels", "median", "quartiles")
    table = make_table(
        "section", "model", "work", "precision", "batch", "pixels", "of", "median", "quartiles", "unit", right=numbers
    )
    for row in rows:
        case = row.case
        spread = "" if row.low == row.high else f"{_number(row.low)} to {_number(row.high)}"
        names = (row.section, case.model, case.work, case.precision, str(case.batch_size), str(case.img_size), row.of)
        table.add_row(*names, _number(row.value), spread, row.unit)
    return table


def write_json(rows: Sequence[Row], machine: dict[str, Any], path: Path) -> None:
    """Machine and rows, all numbers in full."""
    text = json.dumps({"machine": machine, "rows": [asdict(row) for row in rows]}, indent=2) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_resolution_figure(rows: Sequence[Row], path: Path) -> list[Path]:
    """Time and memory per image over the side of the image, as PNG and PDF beside `path`; nothing if nothing was timed."""
    rows = [row for row in rows if row.section == "resolution"]
    if not rows:
        return []
    with style():
        return save(_draw(rows), path)


def _draw(rows: Sequence[Row]) -> Any:
    figure = new_figure(PAGE, 2.6)
    time_axis, memory_axis = figure.subplots(1, 2)
    vim = next(row.case.model for row in rows if row.of == "svp")
    vit = next(row.of for row in rows if row.unit == "of our time")
    ours = {row.case.img_size: 1000 / row.value for row in rows if row.of == "svp" and row.unit == "images/s"}
    theirs = {row.case.img_size: row.value * ours[row.case.img_size] for row in rows if row.unit == "of our time"}
    memory = {of: {r.case.img_size: r.value for r in rows if r.of == of and r.unit == "MB per image"} for of in ("svp", vit)}
    for axis, lines, label in (
        (time_axis, (ours, theirs), "forward pass, ms per image"),
        (memory_axis, (memory["svp"], memory[vit]), "training step, MB per image"),
    ):
        for number, (name, points) in enumerate(zip((vim, vit), lines, strict=True)):
            axis.plot(list(points), list(points.values()), marker=MARKERS[number], color=COLORS[number], label=name)
        axis.set_xlabel("side of the image (pixels)")
        axis.set_ylabel(label)
        log_scale(axis)
        log_scale(axis, "y")
        axis.set_xticks(list(lines[0]))
        open_axis(axis, grid="both")
    time_axis.legend()
    return figure


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"
