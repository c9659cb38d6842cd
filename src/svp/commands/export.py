"""``svp export``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from svp.commands import UsageError
from svp.commands.parsing import file_to_write, progress_bar, run_function


def run(argv: list[str]) -> int:
    return run_function(export, "svp export", argv)


def export(
    run: str, *, format: Literal["onnx", "torch", "peft"] = "onnx", out: str | None = None, images: Sequence[str] | None = None
) -> None:
    """Write a trained adapter with its backbone as one file that runs without svp; or the adapter alone for PEFT.

    Args:
        run: Run directory of `svp train`.
        format: Kind of file; torch is a program of torch.export. peft is a folder that peft.PeftModel.from_pretrained loads
            (lora, dora, lora_partial).
        out: File, or folder for peft, to write; RUN/model.onnx, RUN/model.pt2 or RUN/peft if left out.
        images: Images to check the file on; 50 of the run's test images if left out.
    """
    if format == "peft":
        _export_peft(run, out)
        return
    target = file_to_write("--out", out)
    from svp.export import export_run

    with progress_bar("exporting"):
        exported = export_run(run, format=format, out=target, images=images or ())
    found = exported.comparison
    print(f"written to {exported.path}, {exported.path.stat().st_size / 1e6:.1f} MB")
    print(
        f"checked by {exported.runtime} on the CPU with {found.images} images: largest difference {found.max_difference:.1e} "
        + (
            f"in probability, same top-1 for {found.same_top1}"
            if exported.has_classes
            else "in what it says, a number in standard deviations"
        )
    )
    print(
        f"in batches of {found.batch_size} it does {found.images_per_second:.1f} images/s, "
        f"svp itself {found.images_per_second_svp:.1f}"
    )


def _export_peft(run: str, out: str | None) -> None:
    from svp.hub import folder_for_output
    from svp.tuners import load_adapter
    from svp.tuners.peft_files import write_peft

    target = Path(out) if out else folder_for_output(run) / "peft"
    if target.exists() and not target.is_dir():
        raise UsageError(f"--out {out} is a file; PEFT's files are written into a folder")
    write_peft(load_adapter(run), target)
    print(f"written to {target}: peft.PeftModel.from_pretrained(svp.create_model(...), {str(target)!r}) loads it")
