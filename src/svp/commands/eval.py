"""``svp eval``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from svp.commands.parsing import is_first_process, run_function, to_json
from svp.settings import Device, Precision, Tta

if TYPE_CHECKING:
    from rich.table import Table

    from svp.runs import Evaluation


_MOST_CLASSES = 50
"""Classes up to which all are listed."""

_SHOWN = 15
"""Classes that are listed of more: the worst and the best ones, so many of each."""


def run(argv: list[str]) -> int:
    return run_function(score, "svp eval", argv)


def score(
    run: str,
    *,
    data: str | None = None,
    batch_size: int = 32,
    device: Device = "auto",
    precision: Precision = "auto",
    max_pixels: int | None = None,
    tta: Tta = "none",
    json: bool = False,
) -> None:
    """Score a trained adapter.

    Args:
        run: Run directory of `svp train`.
        data: Labelled images: a folder, table or archive; the run's own test images if left out.
        batch_size: Images per batch.
        device: Where the model runs: auto, cpu, cuda, cuda:1, xpu or mps; auto takes a GPU if there is one.
        precision: Number format; auto is bf16 on a GPU that has it and fp32 elsewhere.
        max_pixels: Largest image that is read, in pixels; above about 179 million it has to be allowed here.
        tta: Views of an image whose mean probabilities count, beside the image itself: flipped left to right, its corners, or
            both.
        json: Print JSON instead of a table.
    """
    from svp.runs import evaluate

    scores = evaluate(run, data, batch_size=batch_size, device=device, precision=precision, max_pixels=max_pixels, tta=tta)
    if not is_first_process():
        return
    if json:
        print(to_json(scores.to_dict()))
    else:
        _print_scores(scores)


def _classes_table(scores: Evaluation) -> Table:
    """Scores of each class or label; of many, the worst and the best."""
    from svp.terminal import make_console, make_table

    labels = scores.task == "multi"
    numbers = ("images", "recall" if labels else "accuracy", "precision", "F1", *(("AP", "threshold") if labels else ()))
    table = make_table("label" if labels else "class", *numbers, right=numbers)
    rows = list(scores.per_class.items())
    if len(rows) > _MOST_CLASSES:
        rows = sorted((row for row in rows if row[1].accuracy is not None), key=lambda row: (row[1].accuracy or 0, -row[1].n))
        left_out = len(scores.per_class) - 2 * _SHOWN
        what = "labels" if labels else "classes"
        make_console().print(f"the {_SHOWN} worst and the {_SHOWN} best {what}; --json lists the other {left_out:,}")
        rows = [*rows[:_SHOWN], *rows[-_SHOWN:]]
    for name, row in rows:
        shares = ["-" if share is None else f"{share:.1%}" for share in (row.accuracy, row.precision, row.f1)]
        if labels:
            shares += ["-" if row.average_precision is None else f"{row.average_precision:.1%}", f"{row.threshold:.2f}"]
        table.add_row(name, str(row.n), *shares)
    return table


def _print_scores(scores: Evaluation) -> None:
    from svp.runs.certainty import wilson
    from svp.runs.own_images import describe_seen
    from svp.runs.views import describe
    from svp.tasks import METRICS, show_metric
    from svp.terminal import make_console, make_table

    console = make_console()
    console.print(f"{scores.run} on {scores.data}", style="bold")
    if scores.how_chosen:
        console.print(f"epoch chosen: {scores.how_chosen}")
    if scores.tta != "none":
        console.print(describe(scores.tta))
    if scores.per_class:
        console.print(_classes_table(scores))
    total = "all classes" if scores.task == "single" else "all images"
    summary = make_table(total, f"{scores.n_test} images", right=(f"{scores.n_test} images",))
    names: dict[str, str] = {str(metric): name for metric, name in METRICS.items()}
    for metric, value in scores.metrics.items():
        if metric == "top5" and len(scores.per_class) <= 5:
            continue  # five guesses always hold the right one
        interval = ""
        if metric == "top1" and scores.top1 is not None:
            value, (low, high) = scores.top1, wilson(scores.top1, scores.n_test)
            interval = f" [{low:.1%}, {high:.1%}]"
        summary.add_row(names.get(metric, metric), show_metric(metric, value) + interval)
    if scores.accepted is not None:
        right = "-" if scores.accepted.accuracy is None else f"{scores.accepted.accuracy:.2%}"
        summary.add_row(f"accepted, from confidence {scores.accepted.threshold:.1%}", f"{scores.accepted.coverage:.2%}")
        summary.add_row("top-1 of the accepted", right)
        summary.add_row("area under the risk-coverage curve", f"{scores.accepted.area:.4f}")
    console.print(summary)
    warning = describe_seen(scores.n_test, scores.trained_on, scores.chosen_on)
    if warning:
        console.print(f"warning: {warning}", style="bold yellow")
    counted = "left out" if scores.task == "regression" else "counted as wrong"
    for image in scores.unreadable_test_images:
        print(f"warning: cannot read {image.path}, {counted}: {image.reason}", file=sys.stderr)
