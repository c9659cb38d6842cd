"""``svp predict``."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from svp.commands.parsing import Parser, add_device_options, file_to_write, is_first_process, progress_bar, to_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def run(argv: list[str]) -> int:
    parser = Parser(prog="svp predict", description="Classify images with a trained adapter.")
    parser.add_argument("run", metavar="RUN", help="run directory of `svp train`")
    parser.add_argument("paths", metavar="PATH", nargs="+", help="images, and folders of images (searched recursively)")
    parser.add_argument("--topk", type=int, default=5, metavar="N", help="classes per image (default: 5)")
    parser.add_argument("--format", default="table", choices=["table", "json", "csv"], help="of the output (default: table)")
    parser.add_argument("--out", metavar="FILE", help="write to this file instead of the screen")
    parser.add_argument("--features", metavar="FILE", help="write the feature vectors to this .npz file too")
    add_device_options(parser)
    values = vars(parser.parse_args(argv))
    form, out, features = values.pop("format"), values.pop("out"), values.pop("features")
    target, features_file = file_to_write("--out", out), file_to_write("--features", features)
    from svp.terminal import make_console
    from svp.training.use import as_csv, predict, save_features

    with progress_bar("predicting") as progress:
        predictions = list(predict(**values, features=bool(features), progress=progress))
    if not is_first_process():
        return 0
    if features_file:
        save_features(predictions, features_file, values["run"])
    if form == "table":
        text = _as_text(_prediction_table(predictions), make_console(io.StringIO() if target else None))
    else:
        text = {"json": _as_json, "csv": as_csv}[form](predictions)
    if target:
        from svp.paths import write_atomically

        write_atomically(target, lambda path: path.write_text(text, "utf-8", errors="backslashreplace", newline=""))
        print(f"{len(predictions)} predictions written to {out}")
    else:
        sys.stdout.write(text)
    failed = [p for p in predictions if p.error]
    for prediction in failed:
        print(f"svp predict: cannot read {prediction.path}: {prediction.error}", file=sys.stderr)
    return 1 if failed else 0


def _as_json(predictions: Sequence[Any]) -> str:
    rows = [dict(path=str(p.path), classes=p.classes, probabilities=p.probabilities, error=p.error) for p in predictions]
    return to_json(rows) + "\n"


def _prediction_table(predictions: Sequence[Any]) -> Table:
    from svp.terminal import make_table

    topk = max((len(p.classes) for p in predictions), default=1)
    table = make_table("image", *(f"{k + 1}." for k in range(topk)))
    for p in predictions:
        cells = [f"{name} {value:.1%}" for name, value in zip(p.classes, p.probabilities, strict=True)]
        table.add_row(str(p.path), *(cells or [f"unreadable: {p.error}"]))
    return table


def _as_text(table: Table, console: Console) -> str:
    with console.capture() as capture:
        console.print(table)
    return capture.get()
