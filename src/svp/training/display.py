"""What a person sees of a run: progress with the time left, a line per epoch, a table at the end, the curves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from svp.paths import write_atomically
from svp.terminal import make_console, make_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Display:
    """Prints to the terminal, or plain lines to a log; silent if told so and in all processes but the first.

    Args:
        enabled: Print at all.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.console = make_console(quiet=not enabled)

    def say(self, text: str) -> None:
        """Print a line."""
        self.console.print(text)

    @contextmanager
    def progress(self, title: str, total: int) -> Iterator[tuple[Progress, TaskID]]:
        """A bar with the time left; nothing in a log, where the epochs' lines tell as much."""
        bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[note]}", markup=False),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        with bar:
            yield bar, bar.add_task(title, total=total, note="")

    def epoch(self, row: dict[str, Any], epochs: int, seconds_left: float, best: bool) -> None:
        """One line for a finished epoch."""
        width = len(str(epochs))
        chosen_by = ""
        if row["selection_split"]:
            scores = f"{row['selection_split']} loss {row['selection_loss']:.3f}  top-1 {row['selection_top1']:6.1%}"
            chosen_by = f"{scores}{' *' if best else '  '}  "
        self.say(
            f"epoch {row['epoch'] + 1:{width}d}/{epochs}  loss {row['train_loss']:.3f}  {chosen_by}"
            f"{row['seconds']:.1f} s, {duration(seconds_left)} left"
        )

    def table(self, title: str, rows: Sequence[tuple[str, str]]) -> None:
        """A two-column table."""
        table = make_table("", "", title=title)
        table.show_header = False
        for row in rows:
            table.add_row(*row)
        self.console.print(table)


def duration(seconds: float) -> str:
    """3725 -> '1 h 02 min'."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def plot_curves(rows: Sequence[dict[str, Any]], best_epoch: int, path: Path, title: str) -> None:
    """Loss over the epochs, and accuracy where a split was scored after each, as a PNG.

    Args:
        rows: As in ``metrics.jsonl``.
        best_epoch: The one that was kept, counted from 0.
        path: The PNG.
        title: How it was chosen.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    blue, orange = "#0072B2", "#D55E00"  # apart for colour-blind readers too
    epochs = [row["epoch"] + 1 for row in rows]
    split = {"val": "validation"}.get(rows[0]["selection_split"], rows[0]["selection_split"])
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(fill(title, 120), fontsize="medium", parse_math=False)
    loss, *others = figure.subplots(1, 2 if split else 1, squeeze=False)[0]
    loss.plot(epochs, [row["train_loss"] for row in rows], color=blue, marker=".", label="training (augmented)")
    loss.set(ylabel="loss")
    for accuracy in others:
        loss.plot(epochs, [row["selection_loss"] for row in rows], color=orange, marker=".", label=split)
        accuracy.plot(epochs, [row["selection_top1"] for row in rows], color=orange, marker=".", label=f"{split} top-1")
        best = rows[best_epoch]["selection_top1"]
        accuracy.plot(
            best_epoch + 1, best, "o", mfc="none", mec=orange, ms=10, label=f"chosen: epoch {best_epoch + 1}, {best:.1%}"
        )
        accuracy.set(ylabel="accuracy")
        style_axis(accuracy, share=True)
    style_axis(loss)
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=144, format="png"))


def style_axis(axis: Axes, share: bool = False) -> None:
    """The look of labelled curves over the epochs; a `share` is shown from 0 to 100 %."""
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    axis.set_xlabel("epoch")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color="#777777", alpha=0.25, linewidth=0.6)
    axis.legend(frameon=False)
    if share:
        axis.set_ylim(0, 1.02)
        axis.yaxis.set_major_formatter(PercentFormatter(1.0))
