"""``svp gates``."""

from __future__ import annotations

from svp.commands import COMMANDS
from svp.commands.parsing import Parser, add_compare_options, progress_bar


def run(argv: list[str]) -> int:
    parser = Parser(prog="svp gates", description=COMMANDS["gates"].capitalize() + ".")
    parser.add_argument("run", metavar="RUN", help="run directory of `svp train`")
    parser.add_argument("paths", metavar="IMAGE", nargs="+", help="images, and folders of images (searched recursively)")
    parser.add_argument("--layer", type=int, metavar="N", help="layer to show, counted from 0 (default: the mean of all)")
    add_compare_options(parser, "RUN/gates")
    values = vars(parser.parse_args(argv))
    from svp.inspection.runs import show_gates

    with progress_bar("recording gates") as progress:
        index = show_gates(**values, progress=progress)
    print(f"figures written to {index}")
    return 0
