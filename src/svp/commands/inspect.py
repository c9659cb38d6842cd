"""``svp inspect``."""

from __future__ import annotations

from svp.commands import COMMANDS
from svp.commands.parsing import Parser, add_compare_options, progress_bar


def run(argv: list[str]) -> int:
    parser = Parser(prog="svp inspect", description=COMMANDS["inspect"].capitalize() + ".")
    parser.add_argument("run", metavar="RUN", help="run directory of `svp train`")
    parser.add_argument("--data", metavar="DATA", help="folder, table or archive; the run's own test images if left out")
    parser.add_argument(
        "--images", type=int, default=256, metavar="N", help="images for gates and features; scores are of all (default: 256)"
    )
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="images at a time (default: 32)")
    add_compare_options(parser, "RUN/inspection")
    values = vars(parser.parse_args(argv))
    from svp.inspection.runs import inspect_run

    with progress_bar("inspecting") as progress:
        index = inspect_run(**values, progress=progress)
    print(f"figures written to {index}")
    return 0
