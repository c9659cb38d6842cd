"""A table of text, in Markdown and in LaTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """A table of text.

    Args:
        title: What it shows, with the unit.
        columns: The first is of text, all others of numbers.
        rows: Cells of each row, one per column.
        notes: What a reader must know, a sentence each.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def to_markdown(self) -> str:
        lines = [f"## {self.title}", "", _markdown_row(self.columns)]
        lines.append("|" + " --- |" + " ---: |" * (len(self.columns) - 1))
        lines += [_markdown_row(row) for row in self.rows]
        lines += [text for note in self.notes for text in ("", note)]
        return "\n".join(lines) + "\n"

    def to_latex(self) -> str:
        """For booktabs; in a document of its own it needs nothing else."""
        lines = [r"\begin{table}", r"\centering", rf"\caption{{{_latex(self.title)}. {_latex(' '.join(self.notes))}}}"]
        lines += [rf"\begin{{tabular}}{{l{'r' * (len(self.columns) - 1)}}}", r"\toprule"]
        lines += [_latex_row(self.columns), r"\midrule", *map(_latex_row, self.rows)]
        lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
        return "\n".join(lines) + "\n"


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(map(_latex, cells)) + r" \\"


def _latex(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {character: "\\" + character for character in "&%$#_{}"}
    special |= {"±": r"$\pm$"}
    text = re.sub(r"(?<![\w.])-(?=\d)", "\N{MINUS SIGN}", text)
    special |= {"\N{MINUS SIGN}": "$-$"}
    parts = text.split("**")
    escaped = ["".join(special.get(character, character) for character in part) for part in parts]
    return "".join(rf"\textbf{{{part}}}" if odd % 2 else part for odd, part in enumerate(escaped))
