"""The report of ``svp data check``, in 80 columns; names and paths are never broken."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from svp.terminal import make_console, make_table

if TYPE_CHECKING:
    from svp.data.checks import Finding, Range, Report
    from svp.data.copies import Copies
    from svp.inspection.data_check import ModelCheck

_WIDTH = 80
_MOST_CLASSES = 30
_MOST_FILES = 10
_MOST_NOTED = 3


def print_report(report: Report) -> None:
    console = make_console()
    console.print(f"{report.name}: {report.total:,} images{', ' if ':' in report.said else ' in '}{report.said}", style="bold")
    console.print(str(report.root.resolve()))
    _print_counts(report)
    for part, split in report.splits.items():
        _print_line(part, split.origin)
    for name, values in (("width", report.width), ("height", report.height), ("aspect", report.aspect)):
        if values is not None:
            _print_line(name, _range(values))
    _print_line("modes", ", ".join(f"{mode} {count:,}" for mode, count in report.modes.items()) or "-")
    reasons = {image.path: image.reason for image in report.unreadable}
    for finding in report.findings:
        console.print()
        style = {"error": "bold red", "warning": "bold yellow", "info": "bold"}[finding.level]
        console.print(_filled(f"{finding.level}: {finding.message} [{finding.code}]", ""), style=style)
        lines = [_copies(entry, report.root) for entry in report.copies if entry.code == finding.code]
        if not lines and len(finding.files) < report.total:  # names say nothing where all are concerned
            lines = _files(finding, report.root, reasons)
        most = _MOST_NOTED if finding.level == "info" else _MOST_FILES
        for line in lines[:most]:
            console.print(line)
        if len(lines) > most:
            console.print(f"    and {len(lines) - most:,} more (--json lists all)")
    console.print()
    console.print(f"{report.total - len(report.unreadable)} of {report.total} images can be read")
    levels = [finding.level for finding in report.findings]
    console.print(f"errors: {levels.count('error')}, warnings: {levels.count('warning')}, notes: {levels.count('info')}")


def print_model_check(found: ModelCheck, root: Path) -> None:
    """What a model found: numbers, the first of each kind, and where the rest is."""
    from svp.inspection.data_check import KINDS

    console = make_console()
    console.print(f"\n{found.images:,} images judged by the model's features", style="bold")
    for kind, (title, _) in KINDS.items():
        some = found.of(kind)
        console.print(f"{title.lower()}: {len(some):,}")
        for finding in some[:_MOST_NOTED]:
            seems = f", seems {finding.suggested}" if finding.suggested else ""
            console.print(f"    {_short(finding.path, root)} ({finding.label}{seems})")
            if finding.other is not None:
                console.print(f"    = {_short(finding.other, root)} ({finding.other_label}, {finding.other_part})")
    console.print(f"all in {found.table}, shown on {found.page}")


def _print_counts(report: Report) -> None:
    """All classes if they are few, else the largest and the smallest."""
    table = make_table("class", *report.splits, right=tuple(report.splits))
    table.columns[0].max_width = _WIDTH - 12 * len(report.splits)
    rows = list(report.counts().items())
    if len(rows) > _MOST_CLASSES:
        rows.sort(key=lambda row: -row[1]["train"])
        left_out = len(rows) - 2 * _MOST_FILES
        rows[_MOST_FILES:-_MOST_FILES] = [(f"... {left_out:,} classes of sizes between", {})]
    for name, counts in rows:
        table.add_row(name, *(f"{count:,}" for count in counts.values()))
    table.add_section()
    table.add_row("all", *(f"{len(split):,}" for split in report.splits.values()))
    make_console().print(table)


def _print_line(name: str, text: str) -> None:
    make_console().print(_filled(f"{name:<8}{text}", " " * 8))


def _filled(text: str, indent: str) -> str:
    lines = text.splitlines()
    wrap = textwrap.TextWrapper(_WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return "\n".join(wrap.fill(line) for line in lines)


def _range(values: Range) -> str:
    return f"{values.least:.4g} to {values.greatest:.4g}, median {values.median:.4g}"


def _copies(copies: Copies, root: Path) -> str:
    same = "the same look" if copies.nearly else "equal files" if copies.same_bytes else "equal pixels"
    files = "\n".join(
        f"      {_short(path, root)}" + (f" ({part}, {name})" if copies.code != "copies" else "")
        for path, name, part in zip(copies.files, copies.classes, copies.parts, strict=True)
    )
    return f"    {same}\n{files}"


def _files(finding: Finding, root: Path, reasons: dict[Path, str]) -> list[str]:
    return [f"    {_short(path, root)}" + (f": {reasons[path]}" if path in reasons else "") for path in finding.files]


def _short(path: Path, root: Path) -> str:
    return str(path.relative_to(root) if path.is_relative_to(root) else path)
