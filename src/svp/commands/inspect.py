"""``svp inspect``."""

from __future__ import annotations

import os
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from svp.commands.parsing import progress_bar, run_function
from svp.settings import Device


def run(argv: list[str]) -> int:
    return run_function(draw, "svp inspect", argv)


def draw(
    run: str,
    *,
    data: str | None = None,
    images: int = 256,
    batch_size: int = 32,
    compare: Sequence[str] = (),
    out: str | None = None,
    device: Device = "auto",
    no_open: bool = False,
) -> None:
    """Make a page of a run: scores, mistakes, classes, curves, calibration, gates and features; open it in the browser.

    Args:
        run: Run directory of `svp train`.
        data: Labelled images: a folder, table or archive; the run's own test images if left out.
        images: Number of images for gates and features; scores are of all images.
        batch_size: Images per batch.
        compare: Another run on the same backbone to show beside; may be repeated.
        out: Folder for the figures; RUN/inspection if left out.
        device: Where the models run: auto, cpu, cuda, cuda:1, xpu or mps; auto takes a GPU if there is one.
        no_open: Only print where the page is, as happens without a display.
    """
    from svp.inspection.runs import inspect_run

    with progress_bar("inspecting") as progress:
        index = inspect_run(
            run,
            data=data,
            images=images,
            batch_size=batch_size,
            compare=compare,
            out=out,
            device=device,
            progress=progress,
        )
    print(f"page written to {index}")
    show(index, opens=not no_open)


def show(page: Path, opens: bool) -> None:
    """Open a page in the browser, where a person at this terminal would see it."""
    display = sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if opens and display and sys.stdout.isatty():
        webbrowser.open(page.resolve().as_uri())
