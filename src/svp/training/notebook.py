"""Progress in the output of a notebook's cell: one line of text that is updated in place, which every front end shows."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rich.progress import Progress, ProgressColumn, TaskID

from svp.terminal import make_console

_PAUSE = 0.2
"""Least time between two updates, in seconds."""


class NotebookProgress(Progress):
    """A bar that is handed on as text.

    Args:
        *columns: As of ``rich.progress.Progress``.
        show: Shows a text in the place of the one before.
    """

    def __init__(self, *columns: ProgressColumn, show: Callable[[str], None]) -> None:
        super().__init__(*columns, disable=True)  # it draws on no console by itself
        self._show = show
        self._shown = float("-inf")

    def update(self, task_id: TaskID, **changes: Any) -> None:
        super().update(task_id, **changes)
        now = time.monotonic()
        if now - self._shown < _PAUSE:
            return
        self._shown = now
        console = make_console()
        with console.capture() as drawn:
            console.print(self.get_renderable())
        self._show(drawn.get().strip())

    def stop(self) -> None:
        super().stop()
        self._show("")


def make_cell_output() -> Callable[[str], None]:
    """A place in the output of the running cell, and what shows a text there."""
    from IPython.display import display

    place = display({"text/plain": ""}, raw=True, display_id=True)
    return lambda text: place.update({"text/plain": text}, raw=True)
