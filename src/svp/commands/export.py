"""``svp export``."""

from __future__ import annotations

from svp.commands import COMMANDS
from svp.commands.parsing import Parser, file_to_write, progress_bar


def run(argv: list[str]) -> int:
    parser = Parser(prog="svp export", description=COMMANDS["export"].capitalize() + ".")
    parser.add_argument("run", metavar="RUN", help="run directory of `svp train`")
    parser.add_argument(
        "--format", default="onnx", choices=["onnx", "torch"], help="torch is a program of torch.export (default: onnx)"
    )
    parser.add_argument("--out", metavar="FILE", help="file to write (default: RUN/model.onnx or RUN/model.pt2)")
    parser.add_argument(
        "--images", nargs="+", default=[], metavar="PATH", help="images to check it on (default: 50 of the run's test images)"
    )
    values = vars(parser.parse_args(argv))
    values["out"] = file_to_write("--out", values["out"])
    from svp.export import export_run

    with progress_bar("exporting"):
        exported = export_run(**values)
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
    return 0
