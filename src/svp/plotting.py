"""The look that all figures share: a paper's sizes, colors that color-blind readers tell apart, the same look for a method
everywhere; PNG and PDF.

    with style():
        figure = new_figure(PAGE, 2.5)
        ...
        save(figure, folder / "name")
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any, Literal
from zlib import crc32

from svp.paths import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

COLUMN, PAGE = 3.4, 7.0
"""Widths of one column and of two, in inches."""
FONT_SIZE, SMALL = 8, 7
"""Points."""

GREY = "#777777"
_METHODS = {
    "#0072B2": ("svp", "additional_scan", "A", "saa", "readout"),
    "#D55E00": ("vpt_deep", "vpt_shallow", "affix", "initial_state", "spt_deep"),
    "#009E73": ("lora", "dora", "lora_partial", "memba"),
    "#CC79A7": ("adapter", "ssf", "vp", "ssp", "dam_vp"),
    "#E69F00": ("full", "partial", "conv1d", "prodial"),
    "#56B4E9": ("bitfit", "norm", "D", "state_offset"),
    "#000000": ("linear", "cls_token", "pos_embed", "spt_shallow"),
}
"""Who has which color, and in that color the first to fifth line and marker."""
_OWN = 5  # lines and markers of each color that belong to a method; the others tell its further runs apart
COLORS = tuple(_METHODS)
"""Okabe and Ito's, without the yellow that paper swallows."""
LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (9, 2)), (0, (2, 1)), (0, (6, 1, 2, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
SEQUENTIAL, DIVERGING = "viridis", "PuOr_r"

_SETTINGS: Any = {
    "font.family": "sans-serif",
    "font.size": FONT_SIZE,
    "axes.titlesize": FONT_SIZE,
    "axes.labelsize": FONT_SIZE,
    "figure.titlesize": FONT_SIZE,
    "figure.labelsize": FONT_SIZE,
    "legend.fontsize": SMALL,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "legend.frameon": False,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,  # fonts that a journal takes
    "text.parse_math": False,  # names of classes and files are no mathematics
}


@dataclass(frozen=True)
class Look:
    """How the curve or the points of a method are drawn; line and marker tell it apart in print without color.

    Args:
        color: Color as "#rrggbb".
        line: Matplotlib's line style.
        marker: Matplotlib's marker.
    """

    color: str
    line: Any
    marker: str


BASE = Look(GREY, "-", "o")
"""The plain backbone."""


def looks(methods: Sequence[str]) -> list[Look]:
    """A look for each of the methods that a figure shows, no two the same.

    A method looks the same in every figure. Another run of it, and a combination that begins with it, have its color with a
    line and marker that no method has on its own.
    """
    found: list[Look] = []
    for method in methods:
        color, own = _color_of(method)
        first = COLORS.index(color)  # so that markers differ from color to color too
        choices = [
            Look(color, LINES[number], MARKERS[(first + number) % len(MARKERS)]) for number in (*own, *range(_OWN, len(LINES)))
        ]
        found.append(next((look for look in choices if look not in found), choices[-1]))
    return found


def _color_of(method: str) -> tuple[str, list[int]]:
    """Its color, and the number of its line and marker if it has one to itself."""
    first = method.split("+")[0]
    for color, names in _METHODS.items():
        if first in names:
            return color, [names.index(method)] if method in names else []
    return COLORS[crc32(first.encode()) % len(COLORS)], []  # a method registered elsewhere


@contextmanager
def style() -> Iterator[None]:
    """Make and save figures inside."""
    _find_place_of_settings()
    import matplotlib as mpl

    with mpl.rc_context(_SETTINGS):
        yield


def _find_place_of_settings() -> None:
    """Matplotlib 3.9 cannot be imported where there is no home directory, unless it is told of another place."""
    if "matplotlib" not in sys.modules and "MPLCONFIGDIR" not in os.environ:
        try:
            Path.home()
        except RuntimeError:
            os.environ["MPLCONFIGDIR"] = mkdtemp(prefix="matplotlib-")


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this many inches, independent of any screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.set_layout_engine("constrained", w_pad=0.06, h_pad=0.04)
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> list[Path]:
    """Write ``path.png`` and ``path.pdf``; returns both."""
    files = []
    for form in ("png", "pdf"):
        files.append(path.with_name(f"{path.name}.{form}"))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from")  # a line for each letter, where a box is drawn
            write_atomically(files[-1], partial(figure.savefig, format=form))
        figure.set_layout_engine("none")  # laid out by now; to do so again takes as long as to draw
    return files


def open_axis(axis: Axes, grid: Literal["x", "y", "both"] = "y") -> None:
    """No frame above and to the right, a faint grid."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis=grid, color=GREY, alpha=0.25, linewidth=0.4)
    axis.set_axisbelow(True)


def log_scale(axis: Axes, which: Literal["x", "y"] = "x") -> None:
    """A logarithmic axis for what is drawn, with plain numbers; matplotlib's own are mathematics, which is switched off."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set(**{f"{which}scale": "log"})
    one, (low, high) = (axis.xaxis, axis.get_xlim()) if which == "x" else (axis.yaxis, axis.get_ylim())
    one.set_major_locator(LogLocator(subs=(1.0,) if high > 100 * low else (1.0, 2.0, 5.0)))
    one.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    one.set_minor_formatter(NullFormatter())


def percent(signed: bool = False) -> FuncFormatter:
    """Ticks of a share: 0.25 as 25%, a change with its sign."""
    from matplotlib.ticker import FuncFormatter

    sign = "+" if signed else "-"
    return FuncFormatter(lambda share, _: f"{100 * share:{sign}.3g}%".replace("-", "\N{MINUS SIGN}").replace("+0%", "0%"))


def shorten(text: str, length: int) -> str:
    """At most `length` characters, the last a "…" if some are left out."""
    return text if len(text) <= length else f"{text[: length - 1].rstrip()}…"
