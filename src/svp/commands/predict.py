"""``svp predict``."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from svp.commands.parsing import file_to_write, is_first_process, progress_bar, run_function, to_json
from svp.settings import Device, Precision

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def run(argv: list[str]) -> int:
    return run_function(classify, "svp predict", argv)


def classify(
    run: str,
    paths: Sequence[str],
    *,
    topk: int = 5,
    format: Literal["table", "json", "csv"] = "table",
    out: str | None = None,
    features: str | None = None,
    batch_size: int = 32,
    device: Device = "auto",
    precision: Precision = "auto",
) -> int:
    """Classify images with a trained adapter.

    Args:
        run: Run directory of `svp train`.
        paths: Images, and folders of images, which are searched recursively.
        topk: Classes to name per image.
        format: Form of the output.
        out: File to write instead of printing.
        features: File (.npz) for the feature vectors, written besides.
        batch_size: Images per batch.
        device: Where the model runs; auto takes a GPU if there is one.
        precision: Number format; auto is bf16 on a GPU that has it and fp32 elsewhere.
    """
    target, features_file = file_to_write("--out", out), file_to_write("--features", features)
    from svp.runs import as_csv, predict, save_features
    from svp.terminal import make_console

    settings: dict[str, Any] = {"topk": topk, "batch_size": batch_size, "device": device, "precision": precision}
    with progress_bar("predicting") as progress:
        predictions = list(predict(run, paths, **settings, features=bool(features), progress=progress))
    if not is_first_process():
        return 0
    if features_file:
        save_features(predictions, features_file, run)
    if format == "table":
        text = _as_text(_prediction_table(predictions), make_console(io.StringIO() if target else None))
    else:
        text = {"json": _as_json, "csv": as_csv}[format](predictions)
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
