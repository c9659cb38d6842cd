"""What a person sees of a run: progress with the time left, a line per epoch, a table at the end, the curves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, cast

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from svp.plotting import BASE, PAGE, looks, new_figure, open_axis, percent, save, style
from svp.runs.result import EpochRow
from svp.tasks import METRICS, Metric, show_metric
from svp.terminal import make_console, make_table
from svp.training.notebook import NotebookProgress, make_cell_output

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Display:
    """Prints to the terminal, to a notebook, or plain lines to a log; silent if told so and in all processes but the first.

    Args:
        enabled: Print at all.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.console = make_console(quiet=not enabled)
        self._show_in_cell = make_cell_output() if enabled and self.console.is_jupyter else None

    def say(self, text: str) -> None:
        """Print a line."""
        self.console.print(text)

    @contextmanager
    def progress(self, title: str, total: int) -> Iterator[tuple[Progress, TaskID]]:
        """A bar with the time left; nothing in a log, where the epochs' lines tell as much."""
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[note]}", markup=False),
        )
        if self._show_in_cell:
            bar: Progress = NotebookProgress(*columns, show=self._show_in_cell)
        else:
            bar = Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)
        with bar:
            yield bar, bar.add_task(title, total=total, note="")

    def epoch(self, row: EpochRow, epochs: int, seconds_left: float, best: bool) -> None:
        """One line for a finished epoch."""
        width = len(str(epochs))
        chosen_by = ""
        if row.selection_split:
            scores = f"{row.selection_split} loss {row.selection_loss:.3f}  {_chosen_by(row)}"
            chosen_by = f"{scores}{' *' if best else '  '}  "
        self.say(
            f"epoch {row.epoch + 1:{width}d}/{epochs}  loss {row.train_loss:.3f}  {chosen_by}"
            f"{row.seconds:.1f} s, {duration(seconds_left)} left"
        )

    def table(self, title: str, rows: Sequence[tuple[str, str]]) -> None:
        """A two-column table."""
        table = make_table("", "", title=title)
        table.show_header = False
        for row in rows:
            table.add_row(*row)
        self.console.print(table)


def _chosen_by(row: EpochRow) -> str:
    """Top-1, or the metric that chooses where there are no classes."""
    if row.selection_top1 is not None:
        return f"top-1 {row.selection_top1:6.1%}"
    return f"{METRICS[cast(Metric, row.chosen_by)]} {show_metric(row.chosen_by, row.selection_value):>6}"


def duration(seconds: float) -> str:
    """3725 -> '1 h 02 min'."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def plot_curves(rows: Sequence[EpochRow], best_epoch: int, path: Path, title: str, method: str) -> None:
    """Loss over the epochs, and accuracy (or the metric that chooses, without classes) where a split was scored after each.

    They are written as PNG and PDF.

    Args:
        rows: Rows of ``metrics.jsonl``.
        best_epoch: The one that was kept, counted from 0.
        path: Path of both files, without their endings.
        title: How it was chosen.
        method: What was trained.
    """
    (look,) = looks([method])
    epochs = [row.epoch + 1 for row in rows]
    split = "validation" if rows[0].selection_split == "val" else rows[0].selection_split
    with style():
        figure = new_figure(PAGE, 2.6)
        figure.suptitle(fill(title, 110), parse_math=False)
        loss, *others = figure.subplots(1, 2 if split else 1, squeeze=False)[0]
        training = [row.train_loss for row in rows]
        loss.plot(epochs, training, color=BASE.color, marker=BASE.marker, label="training (augmented)")
        for accuracy in others:
            curve = dict(color=look.color, marker=look.marker)
            loss.plot(epochs, [row.selection_loss for row in rows], label=split, **curve)
            classes = rows[0].selection_top1 is not None
            values = [row.selection_top1 if classes else row.selection_value for row in rows]
            name = METRICS["top1" if classes else cast(Metric, rows[0].chosen_by)]
            accuracy.plot(epochs, values, label=f"{split} {name}", **curve)
            best = values[best_epoch]
            shown = f"{best:.1%}" if classes else show_metric(rows[0].chosen_by, best)
            ring = dict(marker="o", mfc="none", mec=look.color, ms=9, linestyle="none")
            accuracy.plot(best_epoch + 1, best, label=f"chosen: epoch {best_epoch + 1}, {shown}", **ring)
            accuracy.set_ylabel("accuracy" if classes else name)
            if classes:
                accuracy.set_ylim(0, 1.02)
                accuracy.yaxis.set_major_formatter(percent())
        loss.set(ylabel="loss")
        for axis in (loss, *others):
            axis.axvline(best_epoch + 1, color=BASE.color, linestyle="--", linewidth=0.7, zorder=0)
            style_epochs(axis)
        save(figure, path)


def style_epochs(axis: Axes) -> None:
    """The look of labelled curves over the epochs."""
    from matplotlib.ticker import MaxNLocator

    open_axis(axis)
    axis.set_xlabel("epoch")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axis.legend()
