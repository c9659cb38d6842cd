"""``svp study``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from svp.commands import COMMANDS
from svp.commands.parsing import Parser, UsageError, add_action, run_action

if TYPE_CHECKING:
    from svp.studies import Study


def run(argv: list[str]) -> int:
    parser = Parser(prog="svp study", description=COMMANDS["study"].capitalize() + ".")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    compare = add_action(actions, "compare", _compare, "methods x data sets x seeds: accuracy, differences, cost", "FILE")
    _add_run_options(compare)
    return run_action(parser, argv)


def _add_run_options(parser: Parser) -> None:
    parser.add_argument("--out", metavar="DIR", help="folder of the study's runs and tables (default: runs/NAME)")
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="runs at a time, which share this machine's threads (default: 1)"
    )


def _compare(name: str, out: str | None, workers: int) -> int:
    from svp.studies import read_study

    if workers < 1:
        raise UsageError(f"--workers is {workers}, expected 1 or more")
    return _run(read_study(name), out, workers)


def _run(study: Study, out: str | None, workers: int) -> int:
    from svp.studies.display import run_and_show

    folder = Path(out or f"runs/{study.name}")
    try:
        return 0 if run_and_show(study, folder, workers) else 1
    except KeyboardInterrupt:
        print("\nsvp study: interrupted; the same command goes on", file=sys.stderr)
        return 130
