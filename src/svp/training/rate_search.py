"""``--lr auto``: the learning rate is chosen by short runs, on validation images alone.

Every candidate trains a few epochs from the start; the best few of them train a few more. The rates are a factor of three
apart around the method's own. That is successive halving (Jamieson and Talwalkar, AISTATS 2016, arXiv:1502.07943) in two
rounds. Test images take no part.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from svp.paths import write_atomically
from svp.runs.result import METRICS
from svp.training.config import TrainConfig, default_rate
from svp.training.display import Display

FOLDER = "lr_search"
"""Folder of the short runs, in the run directory; only ``scores.json`` is left of it in the end."""

FACTORS = (1 / 9, 1 / 3, 1.0, 3.0, 9.0)
_SECOND_ROUND = 2
_NOT_OF_SHORT_RUNS: dict[str, Any] = dict(minutes=None, patience=None, calibrate=False, reject=None)

Merit = tuple[float, float]
"""What is compared, of validation images: a metric that is the better the higher, then the negated loss."""


def find_rate(config: TrainConfig, train_shortly: Callable[[TrainConfig], Merit], display: Display, *, write: bool) -> float:
    """The candidate whose short run has the best validation score.

    A search that was interrupted goes on: finished short runs are not repeated, and a finished search is only read.

    Args:
        config: Settings with ``lr="auto"`` and a resolved `out`.
        train_shortly: Trains by other settings and gives the merit of the best epoch.
        display: Told what is tried.
        write: Whether this process writes files.
    """
    folder = Path(config.out or "") / FOLDER
    scores_file = folder / "scores.json"
    if scores_file.is_file():
        scores = json.loads(scores_file.read_text(encoding="utf-8"))
        return float(scores["chosen"])
    rates = [float(f"{factor * default_rate(config.method):.2g}") for factor in FACTORS]
    rounds = [(max(1, config.epochs // 10), len(rates)), (max(1, config.epochs // 4), _SECOND_ROUND)]
    total = sum(epochs * runs for epochs, runs in rounds)
    display.say(f"learning rate: {len(rates)} candidates, {total} epochs of search; the run itself comes after")
    merits: dict[float, Merit] = {}
    alive = rates
    for epochs, runs in rounds:
        alive = alive[:runs]
        for rate in alive:
            out = folder / f"{epochs}-{rate:g}"
            short = replace(
                config,
                lr=rate,
                epochs=epochs,
                out=str(out),
                resume=True,
                minutes=None,
                patience=None,
                calibrate=False,
                reject=None,
            )
            merits[rate] = train_shortly(short)
            value = abs(merits[rate][0])
            shown = "not finite" if math.isinf(value) else f"{value:.3f}" if config.choose_by == "loss" else f"{value:.1%}"
            display.say(f"  lr {rate:<8g} {epochs} epochs  validation {METRICS[config.choose_by]} {shown}")
        alive = sorted(alive, key=lambda rate: merits[rate], reverse=True)
    chosen = alive[0]
    edge = ", at the edge of the candidates: one beyond may be better" if chosen in (rates[0], rates[-1]) else ""
    display.say(f"learning rate {chosen:g}{edge}")
    if write:
        finite = {f"{rate:g}": merit[0] if math.isfinite(merit[0]) else None for rate, merit in merits.items()}
        values = {"chosen": chosen, "candidates": finite}
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(scores_file, lambda path: path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8"))
        for short_run in folder.iterdir():
            if short_run.is_dir():
                shutil.rmtree(short_run)
    return chosen
