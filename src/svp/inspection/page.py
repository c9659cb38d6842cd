"""A folder of figures with an index page that needs nothing but the files beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svp.paths import write_atomically
from svp.plotting import save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
nav a { margin-right: 1.2rem; white-space: nowrap; }
figure { margin: 1rem 0 2rem; }
img { max-width: 100%; height: auto; }
figcaption, caption { color: #444; text-align: left; padding: .4rem 0; }
table { border-collapse: collapse; margin: 2rem 0; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .6rem; border-bottom: 1px solid #ddd; text-align: right; }
td { white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
"""


_PIXELS_PER_INCH = 140  # the smallest text, of 6 points, is read without a zoom


class Page:
    """Collects figures (a PNG and a PDF each), tables and numbers, and writes them into a folder.

    Args:
        folder: Made if need be; files of the same names are replaced.
        title: Of the page.
        facts: What the page is about, a line each.
    """

    def __init__(self, folder: Path, title: str, facts: Sequence[str]) -> None:
        self.folder, self.title, self.facts = folder, title, facts
        self.parts: list[str] = []
        self.contents: list[tuple[str, str]] = []
        self.numbers: dict[str, Any] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def add_figure(self, name: str, title: str | None, caption: str, figure: Figure) -> None:
        """Save a figure as NAME.png and NAME.pdf, under a title or, without one, under that of the figure before."""
        save(figure, self.folder / name)
        width = round(_PIXELS_PER_INCH * figure.get_figwidth())
        if title is not None:
            self.contents.append((name, title))
            self.parts.append(f'<h2 id="{name}">{escape(title)}</h2>')
        self.parts.append(
            f'<figure><img src="{name}.png" alt="{escape(caption)}" width="{width}">'
            f'<figcaption>{escape(caption)} <a href="{name}.pdf">PDF</a></figcaption></figure>'
        )

    def add_table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> None:
        """Show a table."""
        head = "".join(f"<th>{escape(column)}</th>" for column in columns)
        body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
        self.parts.append(f"<table><caption>{escape(caption)}</caption>\n<tr>{head}</tr>\n{body}\n</table>")

    def add_text(self, text: str) -> None:
        """Show a paragraph."""
        self.parts.append(f"<p>{escape(text)}</p>")

    def add_numbers(self, numbers: Mapping[str, Any]) -> None:
        """Keep plain values for ``numbers.json``."""
        self.numbers |= numbers

    def write(self) -> Path:
        """Write ``numbers.json`` and ``index.html``; returns the latter."""
        facts = "".join(f"<li>{escape(fact)}</li>" for fact in self.facts)
        contents = " ".join(f'<a href="#{name}">{escape(title)}</a>' for name, title in self.contents)
        page = (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(self.title)}</title>'
            f"<style>{_STYLE}</style></head>\n<body>\n<h1>{escape(self.title)}</h1>\n<ul>{facts}</ul>\n"
            f"<nav>{contents}</nav>\n"
            + "\n".join(self.parts)
            + '\n<p><a href="numbers.json">numbers.json</a></p>\n</body></html>\n'
        )
        index = self.folder / "index.html"
        numbers = json.dumps(self.numbers, indent=2) + "\n"
        write_atomically(self.folder / "numbers.json", lambda path: path.write_text(numbers, encoding="utf-8"))
        write_atomically(index, lambda path: path.write_text(page, encoding="utf-8", errors="backslashreplace"))
        return index
