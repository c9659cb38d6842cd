"""``svp eval``."""

from __future__ import annotations

import sys
from typing import Any

from svp.commands.parsing import Parser, add_device_options, is_first_process, to_json


def run(argv: list[str]) -> int:
    parser = Parser(prog="svp eval", description="Score a trained adapter.")
    parser.add_argument("run", metavar="RUN", help="run directory of `svp train`")
    parser.add_argument("--data", metavar="DATA", help="folder, table or archive; the run's own test images if left out")
    add_device_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    values = vars(parser.parse_args(argv))
    as_json = values.pop("json")
    from svp.training.use import evaluate

    scores = evaluate(**values)
    if not is_first_process():
        return 0
    if as_json:
        print(to_json(scores))
    else:
        _print_scores(scores)
    return 0


def _print_scores(scores: dict[str, Any]) -> None:
    from svp.terminal import make_console, make_table

    console = make_console()
    console.print(f"{scores['run']} on {scores['data']}", style="bold")
    if scores.get("how_chosen"):
        console.print(f"epoch chosen: {scores['how_chosen']}")
    table = make_table("class", "images", "accuracy", right=("images", "accuracy"))
    for name, row in scores["per_class"].items():
        accuracy = "-" if row["accuracy"] is None else f"{row['accuracy']:.1%}"
        table.add_row(name, str(row["n"]), accuracy)
    table.add_section()
    table.add_row("all, top-1", str(scores["n_test"]), f"{scores['top1']:.2%}")
    table.add_row("all, top-5", str(scores["n_test"]), f"{scores['top5']:.2%}")
    console.print(table)
    for image in scores["unreadable_test_images"]:
        print(f"warning: cannot read {image['path']}, counted as wrong: {image['reason']}", file=sys.stderr)
