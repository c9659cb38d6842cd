"""``svp gates``."""

from __future__ import annotations

from collections.abc import Sequence

from svp.commands.parsing import progress_bar, run_function
from svp.settings import Device


def run(argv: list[str]) -> int:
    return run_function(show, "svp gates", argv)


def show(
    run: str,
    images: Sequence[str],
    *,
    layer: int | None = None,
    compare: Sequence[str] = (),
    out: str | None = None,
    device: Device = "auto",
) -> None:
    """Lay the gates of a trained model over images, beside those of its backbone.

    Args:
        run: Run directory of `svp train`.
        images: Images, and folders of images, which are searched recursively.
        layer: Layer to show, counted from 0; the mean of all layers if left out.
        compare: Another run on the same backbone to show beside; may be repeated.
        out: Folder for the figures; RUN/gates if left out.
        device: Where the models run: auto, cpu, cuda, cuda:1, xpu or mps; auto takes a GPU if there is one.
    """
    from svp.inspection.runs import show_gates

    with progress_bar("recording gates") as progress:
        index = show_gates(run, images, compare=compare, layer=layer, out=out, device=device, progress=progress)
    print(f"figures written to {index}")
