"""``svp demo``."""

from __future__ import annotations

from svp.collector import collector_paused
from svp.commands.parsing import run_function
from svp.process import run_beside
from svp.terminal import make_console


def run(argv: list[str]) -> int:
    return run_function(show, "svp demo", argv)


def show(*, out: str = "runs/demo") -> None:
    """Adapt a small Vim to handwritten digits, without a network.

    Args:
        out: Folder of the runs and the figure; what it held before is replaced.
    """
    make_console().print("svp demo: a small Vim learns handwritten digits, by three methods")
    run_beside("svp.ops.warm_up")  # what the first method does not need is compiled while it trains
    with collector_paused():  # else it takes a sixth of the time that the imports take
        from svp.demo import demo

    demo(out)
