"""``svp export``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from svp.commands import UsageError
from svp.commands.parsing import file_to_write, progress_bar, run_function

if TYPE_CHECKING:
    from svp.export import Comparison, Exported


def run(argv: list[str]) -> int:
    return run_function(export, "svp export", argv)


def export(
    run: str,
    *,
    format: Literal["onnx", "torch", "peft"] = "onnx",
    out: str | None = None,
    images: Sequence[str] | None = None,
    int8: bool = False,
) -> None:
    """Write a trained adapter with its backbone as one file that runs without svp; or the adapter alone for PEFT.

    Args:
        run: Run directory of `svp train`.
        format: Kind of file; torch is a program of torch.export. peft is a folder that peft.PeftModel.from_pretrained loads
            (lora, dora, lora_partial).
        out: File, or folder for peft, to write; RUN/model.onnx, RUN/model.int8.onnx, RUN/model.pt2 or RUN/peft if left out.
        images: Images to check the file on; 50 of the run's test images if left out, 500 with --int8.
        int8: Compute the products in int8: a smaller file of less accuracy, which is printed. ONNX files only.
    """
    if int8 and format != "onnx":
        raise UsageError(f"--int8 is for --format onnx, whose runtime has products in int8; not for {format}")
    if format == "peft":
        _export_peft(run, out)
        return
    target = file_to_write("--out", out)
    from svp.export import export_run

    with progress_bar("exporting"):
        exported = export_run(run, format=format, out=target, images=images or (), int8=int8)
    print(f"written to {exported.path}, {exported.path.stat().st_size / 1e6:.1f} MB")
    _report("", exported.comparison, exported)
    if exported.int8:
        _report("in int8: ", exported.int8, exported)


def _report(start: str, found: Comparison, exported: Exported) -> None:
    where = "in what it says, a number in standard deviations"
    if exported.has_classes:
        where = f"in probability, same top-1 for {found.same_top1}"
    print(
        f"{start}checked by {exported.runtime} on the CPU with {found.images} images: "
        f"largest difference {found.max_difference:.1e} {where}"
    )
    if found.correct is not None and found.correct_svp is not None:
        accuracy, accuracy_svp = (f"{100 * n / found.images:.2f} %" for n in (found.correct, found.correct_svp))
        print(f"{start}its top-1 accuracy is {accuracy}, that of svp {accuracy_svp}")
    print(
        f"{start}in batches of {found.batch_size} it does {found.images_per_second:.1f} images/s, "
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
