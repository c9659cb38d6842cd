"""The look that all figures share: one column or two of a paper, colours that colour-blind readers tell apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

COLUMN, PAGE = 3.4, 7.0
"""Widths in inches."""

BASE = "#777777"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Of Okabe and Ito, in the order of their use; the base model is grey."""
LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D")
SEQUENTIAL, DIVERGING = "viridis", "PuOr_r"

_SETTINGS: Any = {
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.2,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # fonts that a journal takes
    "text.parse_math": False,  # names of classes and files are no mathematics
}

_NAMES = {
    "svp": "SVP",
    "vpt_shallow": "VPT-shallow",
    "vpt_deep": "VPT-deep",
    "vp": "VP",
    "affix": "Affix",
    "adapter": "Adapter",
    "linear": "linear probe",
    "full": "full",
    "bitfit": "BitFit",
}


@contextmanager
def style() -> Iterator[None]:
    """Make and save figures inside."""
    import matplotlib as mpl

    with mpl.rc_context(_SETTINGS):
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this many inches, independent of any screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.set_layout_engine("constrained", w_pad=0.06, h_pad=0.04)
    FigureCanvasAgg(figure)
    return figure


def method_name(method: str) -> str:
    """A method as papers write it."""
    return _NAMES.get(method, method)


def colour(number: int) -> str:
    """Of a model: the base model is number 0."""
    return BASE if number == 0 else COLOURS[(number - 1) % len(COLOURS)]


def line(number: int) -> str:
    """Its line style, for print without colour."""
    return LINES[number % len(LINES)]


def open_axis(axis: Axes) -> None:
    """No frame above and to the right, a faint grid."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color=BASE, alpha=0.25, linewidth=0.4)
    axis.set_axisbelow(True)


def percent(signed: bool = False) -> FuncFormatter:
    """Ticks of a share: 0.25 as 25%, a change with its sign."""
    from matplotlib.ticker import FuncFormatter

    sign = "+" if signed else "-"
    return FuncFormatter(lambda share, _: f"{100 * share:{sign}.3g}%".replace("-", "\N{MINUS SIGN}").replace("+0%", "0%"))
