"""``svp export``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from svp.commands.parsing import file_to_write, progress_bar, run_function


def run(argv: list[str]) -> int:
    return run_function(export, "svp export", argv)


def export(
    run: str, *, format: Literal["onnx", "torch"] = "onnx", out: str | None = None, images: Sequence[str] | None = None
) -> None:
    """Write a trained adapter with its backbone as one file that runs without svp.

    Args:
        run: Run directory of `svp train`.
        format: Kind of file; torch is a program of torch.export.
        out: File to write; RUN/model.onnx or RUN/model.pt2 if left out.
        images: Images to check the file on; 50 of the run's test images if left out.
    """
    target = file_to_write("--out", out)
    from svp.export import export_run

    with progress_bar("exporting"):
        exported = export_run(run, format=format, out=target, images=images or ())
    found = exported.comparison
    print(f"written to {exported.path}, {exported.path.stat().st_size / 1e6:.1f} MB")
    print(
        f"checked by {exported.runtime} on the CPU with {found.images} images: largest difference {found.max_difference:.1e} "
        f"in probability, same top-1 for {found.same_top1}"
    )
    print(
        f"in batches of {found.batch_size} it does {found.images_per_second:.1f} images/s, "
        f"svp itself {found.images_per_second_svp:.1f}"
    )
