"""``svp demo``."""

from __future__ import annotations

import shutil
from pathlib import Path

from svp.collector import collector_paused
from svp.commands.parsing import run_function
from svp.errors import InputError
from svp.limits import usable_cpus
from svp.process import run_beside
from svp.terminal import make_console

_MARK = ".svp-demo"


def run(argv: list[str]) -> int:
    return run_function(show, "svp demo", argv)


def show(*, out: str = "runs/demo") -> None:
    """Adapt a small Vim to handwritten digits, without a network.

    Args:
        out: Folder of the runs and the figure; what it held before is replaced.
    """
    make_console().print("svp demo: a small Vim learns handwritten digits, by three methods")
    compare(Path(out))


def compare(folder: Path, recipe: str = "demo") -> None:
    """Train by a recipe in a second process, and by other methods in this one, which imports what is slow meanwhile."""
    _clear(folder)
    train = ["train", "--recipe", recipe, "--out", str(folder / "svp")]
    second = run_beside(train, log=folder / "svp.log", threads=max(1, usable_cpus() // 2))
    with collector_paused():  # else it takes a sixth of the time that the imports take
        from svp.demo import demo

    demo(folder, recipe, second)


def _clear(folder: Path) -> None:
    """Make the folder, without what an earlier demo left in it."""
    if folder.exists() and any(folder.iterdir()):
        if not (folder / _MARK).is_file():
            raise InputError(f"{folder} holds something else than an earlier demo: choose another --out")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MARK).touch()
