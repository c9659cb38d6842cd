"""``svp demo``."""

from __future__ import annotations

from svp.commands import COMMANDS
from svp.commands.parsing import Parser


def run(argv: list[str]) -> int:
    parser = Parser(prog="svp demo", description=COMMANDS["demo"].capitalize() + ".")
    parser.add_argument("--out", metavar="DIR", default="runs/demo", help="written anew (default: runs/demo)")
    values = vars(parser.parse_args(argv))
    from svp.demo import demo

    demo(**values)
    return 0
