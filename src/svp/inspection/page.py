"""A page that holds its images itself, in a folder with its figures as files and its numbers."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svp.pages import write_page
from svp.paths import write_atomically
from svp.plotting import save
from svp.runs.result import ClassScore

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PIXELS_PER_INCH = 140  # the smallest text, of 6 points, is read without a zoom


@dataclass(frozen=True)
class Tile:
    """A number in large type.

    Args:
        value: The number, as it is read.
        name: What it is.
        note: How sure it is, or what it is of.
    """

    value: str
    name: str
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """An image of a contact sheet.

    Args:
        source: The image as a ``data:`` address.
        path: Its file.
        lines: Lines under it: a short word and what it introduces, such as ("true", "cat").
        note: What stands in its corner, such as "93%".
    """

    source: str
    path: Path
    lines: Sequence[tuple[str, str]]
    note: str = ""

    @property
    def alt(self) -> str:
        """What it shows, for those who do not see it."""
        told = ", ".join(f"{word} {text}" for word, text in self.lines)
        return f"{self.path.name}: {told} {self.note}".strip()


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

    def add_section(self, name: str, title: str) -> None:
        """Begin a section, which the head of the page links to by its name."""
        self.parts.append(dict(kind="section", name=name, title=title))

    def add_figure(self, name: str, title: str | None, caption: str, figure: Figure) -> None:
        """Save a figure as NAME.png and NAME.pdf, under a title or, without one, under that of the figure before."""
        save(figure, self.folder / name)
        self.add_saved_figure(name, title, caption, figure.get_figwidth())

    def add_saved_figure(self, name: str, title: str | None, caption: str, width: float) -> None:
        """Show a figure of so many inches whose NAME.png and NAME.pdf are in the folder."""
        source = data_address((self.folder / f"{name}.png").read_bytes(), "png")
        pixels = round(_PIXELS_PER_INCH * width)
        self.parts.append(dict(kind="figure", name=name, title=title, caption=caption, width=pixels, source=source))

    def add_table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str, text: bool = False) -> None:
        """Show a table, of numbers or of `text`."""
        self.parts.append(dict(kind="table", title=None, columns=columns, rows=rows, caption=caption, text=text))

    def add_text(self, text: str) -> None:
        """Show a paragraph."""
        self.parts.append(dict(kind="text", title=None, text=text))

    def add_code(self, text: str) -> None:
        """Show a command."""
        self.parts.append(dict(kind="code", title=None, text=text))

    def add_headline(self, sentences: Sequence[str], tiles: Sequence[Tile]) -> None:
        """Show the outcome: the first sentence large, numbers below."""
        self.parts.append(dict(kind="headline", title=None, sentences=sentences, tiles=tiles))

    def add_sheet(self, pictures: Sequence[Picture], caption: str) -> None:
        """Show images in a grid."""
        self.parts.append(dict(kind="sheet", title=None, pictures=pictures, caption=caption))

    def add_classes(self, scores: Mapping[str, ClassScore], trained: Sequence[int] | None) -> None:
        """Show the scores of every class as bars, beside the number of images trained on where it is known."""
        rows = list(zip(scores.items(), trained or [0] * len(scores), strict=True))
        self.parts.append(dict(kind="classes", title=None, rows=rows, with_trained=trained is not None))

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


def data_address(image: bytes, form: str) -> str:
    """An address that holds the image itself."""
    return f"data:image/{form};base64,{base64.b64encode(image).decode()}"
