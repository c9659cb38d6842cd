"""``svp study``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svp.commands import COMMANDS
from svp.commands.parsing import Parser, UsageError, add_action, run_action

if TYPE_CHECKING:
    from svp.studies import Search, Study


def run(argv: list[str]) -> int:
    parser = Parser(prog="svp study", description=COMMANDS["study"].capitalize() + ".")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    compare = add_action(actions, "compare", _compare, "methods x data sets x seeds: accuracy, differences, cost", "FILE")
    ablate = add_action(actions, "ablate", _ablate, "what each part of SVP contributes: the study brings the methods", "FILE")
    sensitivity = add_action(actions, "sensitivity", _sensitivity, "how much settings matter: every point of a grid", "FILE")
    for action in (compare, ablate, sensitivity):
        _add_run_options(action)
    report = add_action(actions, "report", _report, "a study's folder as one HTML page, readable offline", "DIR")
    report.add_argument("--out", metavar="FILE", help="the page (default: DIR/report.html)")
    return run_action(parser, argv)


def _add_run_options(parser: Parser) -> None:
    parser.epilog = "FILE is YAML, or the name of a study that ships with svp, as digits. Its form: docs/studies.md"
    parser.add_argument("--out", metavar="DIR", help="folder of the study's runs and tables (default: runs/NAME)")
    parser.add_argument("--workers", type=int, metavar="N", help="runs at a time, on this machine's threads (default: 1)")
    parser.add_argument("--ray", metavar="ADDRESS", help="run on a Ray cluster: its address, or auto for that on this machine")


def _compare(name: str, **options: Any) -> int:
    from svp.studies import read_study

    return _run(read_study(name), **options)


def _ablate(name: str, **options: Any) -> int:
    from svp.studies import read_ablation

    return _run(read_ablation(name), **options)


def _sensitivity(name: str, **options: Any) -> int:
    from svp.studies import make_search, read_sensitivity
    from svp.studies.study import read_values

    values = read_values(name)
    return _run(make_search(values) if "space" in values else read_sensitivity(name), **options)


def _report(name: str, out: str | None) -> None:
    from svp.studies import write_report

    print(write_report(name, out))


def _run(study: Study | Search, out: str | None, workers: int | None, ray: str | None) -> int:
    from svp.studies import Search
    from svp.studies.display import run_and_show, search_and_show

    if workers is not None and ray is not None:
        raise UsageError("--workers and --ray are given, expected only one: a cluster runs as many as it has CPUs or GPUs")
    if workers is not None and workers < 1:
        raise UsageError(f"--workers is {workers}, expected 1 or more")
    folder = Path(out or f"runs/{study.name}")
    try:
        if isinstance(study, Search):
            return 0 if search_and_show(study, folder, workers or 1, ray) else 1
        return 0 if run_and_show(study, folder, workers or 1, ray) else 1
    except KeyboardInterrupt:
        print("\nsvp study: interrupted; the same command goes on", file=sys.stderr)
        return 130
