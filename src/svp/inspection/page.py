"""A folder of figures with an index page that needs nothing but the files beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svp.pages import write_page
from svp.paths import write_atomically
from svp.plotting import save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PIXELS_PER_INCH = 140  # the smallest text, of 6 points, is read without a zoom


class Page:
    """Collects figures (a PNG and a PDF each), tables and numbers, and writes them into a folder.

    Args:
        folder: Created if it does not exist; files of the same names are replaced.
        title: Title of the page.
        facts: Lines under the title that say what the page is about.
    """

    def __init__(self, folder: Path, title: str, facts: Sequence[str]) -> None:
        self.folder, self.title, self.facts = folder, title, facts
        self.parts: list[dict[str, Any]] = []
        self.numbers: dict[str, Any] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def add_figure(self, name: str, title: str | None, caption: str, figure: Figure) -> None:
        """Save a figure as NAME.png and NAME.pdf, under a title or, without one, under that of the figure before."""
        save(figure, self.folder / name)
        width = round(_PIXELS_PER_INCH * figure.get_figwidth())
        self.parts.append(dict(kind="figure", name=name, title=title, caption=caption, width=width))

    def add_table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> None:
        """Show a table."""
        self.parts.append(dict(kind="table", title=None, columns=columns, rows=rows, caption=caption))

    def add_text(self, text: str) -> None:
        """Show a paragraph."""
        self.parts.append(dict(kind="text", title=None, text=text))

    def add_numbers(self, numbers: Mapping[str, Any]) -> None:
        """Keep plain values for ``numbers.json``."""
        self.numbers |= numbers

    def write(self) -> Path:
        """Write ``numbers.json`` and ``index.html``; returns the latter."""
        index = self.folder / "index.html"
        numbers = json.dumps(self.numbers, indent=2) + "\n"
        write_atomically(self.folder / "numbers.json", lambda path: path.write_text(numbers, encoding="utf-8"))
        write_page(index, "inspection.html", title=self.title, facts=self.facts, parts=self.parts)
        return index
