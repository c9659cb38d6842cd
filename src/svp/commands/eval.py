"""``svp eval``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from svp.commands.parsing import is_first_process, run_function, to_json
from svp.settings import Device, Precision

if TYPE_CHECKING:
    from svp.runs import Evaluation


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
    json: bool = False,
) -> None:
    """Score a trained adapter.

    Args:
        run: Run directory of `svp train`.
        data: Labelled images: a folder, table or archive; the run's own test images if left out.
        batch_size: Images per batch.
        device: Where the model runs; auto takes a GPU if there is one.
        precision: Number format; auto is bf16 on a GPU that has it and fp32 elsewhere.
        max_pixels: Largest image that is read, in pixels; above about 179 million it has to be allowed here.
        json: Print JSON instead of a table.
    """
    from svp.runs import evaluate

    scores = evaluate(run, data, batch_size=batch_size, device=device, precision=precision, max_pixels=max_pixels)
    if not is_first_process():
        return
    if json:
        print(to_json(scores.to_dict()))
    else:
        _print_scores(scores)


def _print_scores(scores: Evaluation) -> None:
    from svp.terminal import make_console, make_table

    console = make_console()
    console.print(f"{scores.run} on {scores.data}", style="bold")
    if scores.how_chosen:
        console.print(f"epoch chosen: {scores.how_chosen}")
    table = make_table("class", "images", "accuracy", right=("images", "accuracy"))
    for name, row in scores.per_class.items():
        accuracy = "-" if row.accuracy is None else f"{row.accuracy:.1%}"
        table.add_row(name, str(row.n), accuracy)
    table.add_section()
    table.add_row("all, top-1", str(scores.n_test), f"{scores.top1:.2%}")
    table.add_row("all, top-5", str(scores.n_test), f"{scores.top5:.2%}")
    console.print(table)
    for image in scores.unreadable_test_images:
        print(f"warning: cannot read {image.path}, counted as wrong: {image.reason}", file=sys.stderr)
