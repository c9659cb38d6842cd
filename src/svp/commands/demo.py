"""``svp demo``."""

from __future__ import annotations

from svp.commands.parsing import run_function


def run(argv: list[str]) -> int:
    return run_function(show, "svp demo", argv)


def show(*, out: str = "runs/demo") -> None:
    """Adapt a small Vim to handwritten digits, without a network.

    Args:
        out: Folder of the runs and the figure; what it held before is replaced.
    """
    from svp.demo import demo

    demo(out)
