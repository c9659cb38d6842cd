"""What people read: consoles that print names and paths as they are, and tables of one form."""

from __future__ import annotations

import sys
from collections.abc import Collection
from typing import IO

from rich import box
from rich.console import Console
from rich.table import Table

_WIDE = 1000  # columns; a file, a log or a pipe has no width of its own, and a folded path is no path


def make_console(file: IO[str] | None = None, quiet: bool = False) -> Console:
    """A console that reads no markup and no emoji in what it prints and breaks no line of text.

    Args:
        file: Where to print, without color; the standard output if None, without color if that is no terminal.
        quiet: Print nothing.
    """
    terminal = file is None and sys.stdout.isatty()
    return Console(
        file=file,
        quiet=quiet,
        width=None if terminal else _WIDE,
        force_terminal=terminal,
        color_system="auto" if terminal else None,
        markup=False,
        emoji=False,
        highlight=False,
        soft_wrap=True,
    )


def make_table(*columns: str, title: str | None = None, right: Collection[str] = ()) -> Table:
    """An empty table; the columns named in `right` are numbers."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, overflow="fold", justify="right" if column in right else "left")
    return table
