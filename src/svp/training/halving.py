"""``--lr auto`` and ``--method auto``: several candidates begin the run, the worse half stops again and again, one goes on.

Every candidate is the run itself, with the seed, schedule and length that were asked for; only its learning rate or its method
differs. When a quarter of the epochs is over (an eighth with more than four candidates, and so on), the better half goes on
to twice as many, until one is left. It is finished as the run: its epochs are not trained again, and it ends with the weights
that it would have had alone. Compared is the loss of the last epoch on validation images, which so few images tell better than
top-1, or the metric of ``--choose-by`` if it is another one; test images take no part. Of equals, as after an epoch that lies
within the warm-up, the one nearest to its method's default rate is better.

Source: successive halving (Jamieson and Talwalkar, AISTATS 2016, arXiv:1502.07943). Short runs with a schedule of their own
are no stand-in: with few steps the highest rate wins, and then the whole run diverges (docs/results_learning_rate.md).
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from svp.paths import write_atomically
from svp.runs.result import EpochRow
from svp.tasks import LOWER_IS_BETTER, METRICS, Metric, show_metric
from svp.training.config import AUTO, TrainConfig, default_rate
from svp.training.display import Display

FOLDER = "search"
"""Folder of the candidates, in the run directory; only ``scores.json`` is left of it in the end."""

FACTORS = (1 / 3, 1.0, 3.0)
"""Learning rates that are tried, relative to the method's own."""

METHODS = ("svp", "lora", "linear")
"""Methods that are tried: the best of docs/results_three_tasks.md that store little, and the head alone, which costs least."""

_ALONE: dict[str, Any] = dict(resume=True, minutes=None, patience=None, calibrate=False, reject=None)
"""Settings of a candidate that are not those of the run."""

Merit = tuple[float, float]
"""What is compared, of validation images: a metric, negated if less of it is better, then the negated loss."""


def merit_of(row: EpochRow) -> Merit:
    """What candidates are compared by: the loss, or the metric that chooses the epoch if it is not top-1."""
    by = "loss" if row.chosen_by == "top1" else row.chosen_by
    value = row.selection_loss if by == "loss" else row.selection_value
    return replace(row, chosen_by=by, selection_value=value).merit


def candidates(config: TrainConfig) -> dict[str, TrainConfig]:
    """The runs to choose from, by names that are names of folders too."""
    methods = METHODS if config.method == AUTO else (config.method,)
    found = {}
    for method in methods:
        factors = FACTORS if config.lr == AUTO else (1.0,)
        for factor in factors:
            rate = float(f"{factor * default_rate(method):.2g}") if config.lr in (None, AUTO) else config.rate
            found[f"{method}-{rate:g}"] = replace(config, method=method, lr=rate)
    return found


def from_default(config: TrainConfig) -> float:
    """How far a candidate's learning rate lies from its method's default, as a difference of logarithms."""
    return abs(math.log(config.rate / default_rate(config.method)))


def rounds(count: int, epochs: int) -> list[tuple[int, int]]:
    """How many candidates are left in each round, and the epoch that it ends at."""
    sizes = [count]
    while sizes[-1] > 2:
        sizes.append(-(-sizes[-1] // 2))
    return [(size, math.ceil(epochs / 2 ** (len(sizes) - number))) for number, size in enumerate(sizes)]


def choose(
    config: TrainConfig, train_until: Callable[[TrainConfig, int], Merit], display: Display, *, write: bool
) -> TrainConfig:
    """The candidate that is left, with the settings of the run.

    A search that was interrupted goes on: epochs that are done are not repeated, and a finished search is only read.

    Args:
        config: Settings that leave the rate or the method open, and a resolved `out`.
        train_until: Trains by other settings, or goes on, up to a number of epochs; gives the merit of the last one.
        display: Told what is tried.
        write: Whether this process writes files.
    """
    folder = Path(config.out or "") / FOLDER
    scores_file, found = folder / "scores.json", candidates(config)
    if scores_file.is_file():
        return found[json.loads(scores_file.read_text(encoding="utf-8"))["chosen"]]
    # of a run that is planned by its time no length is known: its candidates train for a few epochs, and none goes on
    planned = rounds(len(found), config.epochs)
    if config.minutes is not None:
        planned = [(size, min(2**number, config.epochs)) for number, (size, _) in enumerate(planned)]
    done, total = 0, _epochs(planned)
    spared = 0 if config.minutes is not None else planned[-1][1]
    display.say(f"choosing from {len(found)} candidates takes {total - spared} epochs more than one run alone")
    alive, history, merits, before = list(found), [], {}, 0
    for size, until in planned:
        alive = alive[:size]
        for name in alive:
            short = replace(found[name], out=str(folder / name), **_ALONE)
            merits[name] = train_until(short, until)
            done += until - before
            told = f"{found[name].method}, lr {found[name].rate:g}"
            display.say(f"  {told}: {_shown(config, merits[name])} after epoch {until} ({done} of {total} epochs)")
        alive.sort(key=lambda name: (merits[name], -from_default(found[name])), reverse=True)
        history.append({"epochs": until, "scores": {name: _finite(_value(config, merits[name])) for name in alive}})
        before = until
    first, second = alive[:2]
    _tell(config, found, (first, second), merits, display)
    if write:
        text = json.dumps({"chosen": first, "metric": _metric(config), "rounds": history}, indent=2) + "\n"
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(scores_file, lambda path: path.write_text(text, encoding="utf-8"))
    return found[first]


def hand_over(config: TrainConfig, chosen: TrainConfig, *, go_on: bool = True) -> None:
    """Let the run directory go on from what the chosen candidate trained, and remove the candidates.

    Args:
        config: Settings that left the rate or the method open.
        chosen: What ``choose`` gave.
        go_on: Whether the run is the candidate; one with folds trains on other images.
    """
    out = Path(config.out or "")
    name = next(name for name, candidate in candidates(config).items() if candidate == chosen)
    trained = out / FOLDER / name
    state = Path("last", "state.pt")
    if go_on and config.minutes is None and (trained / state).is_file() and not (out / state).is_file():
        (out / "last").mkdir(exist_ok=True)
        files = (Path("adapter.json"), Path("adapter.safetensors"), Path("metrics.jsonl"), state)
        for file in files:  # the state last: what lies beside is never behind it
            write_atomically(out / file, partial(shutil.copyfile, trained / file))
    for candidate in (out / FOLDER).iterdir():
        if candidate.is_dir():
            shutil.rmtree(candidate)


def as_chosen(config: TrainConfig, saved: TrainConfig) -> TrainConfig:
    """Settings with what a run has chosen in the place of what they leave open.

    Args:
        config: Settings that a run is resumed with.
        saved: Settings that its directory holds, where the choice is made, if it is.
    """
    if config.method == AUTO:
        lr = saved.lr if config.lr in (None, AUTO) else config.lr
        return replace(config, method=saved.method, options=saved.options, weight_decay=saved.weight_decay, lr=lr)
    return replace(config, lr=saved.lr) if config.lr == AUTO else config


def _epochs(planned: list[tuple[int, int]]) -> int:
    """Epochs that all candidates train together."""
    before = [0, *(until for _, until in planned)]
    return sum(size * (until - earlier) for (size, until), earlier in zip(planned, before, strict=False))


def _tell(
    config: TrainConfig,
    found: Mapping[str, TrainConfig],
    best: tuple[str, str],
    merits: Mapping[str, Merit],
    display: Display,
) -> None:
    """Say which candidate is taken, and why."""
    (first, second), last = best, [_shown(config, merits[name]) for name in best]
    chosen, other = found[first], found[second]
    if merits[first] == merits[second]:
        display.say(
            f"chosen: {chosen.method}, lr {chosen.rate:g}, but {other.method}, lr {other.rate:g}, has the same {last[0]}: "
            "nothing tells them apart, and the rate nearest to the default is taken. More epochs, or less warm-up, would tell"
        )
        return
    display.say(
        f"chosen: {chosen.method}, lr {chosen.rate:g}, as its {last[0]} is the best, before {last[1]} of {other.method}, "
        f"lr {other.rate:g}"
    )
    tried = [candidate.rate for candidate in found.values() if candidate.method == chosen.method]
    if len(tried) > 2 and chosen.rate in (min(tried), max(tried)):
        display.say("this rate is at the edge of the candidates: one beyond may be better")


def _shown(config: TrainConfig, merit: Merit) -> str:
    metric, value = _metric(config), _value(config, merit)
    shown = "not finite" if math.isinf(value) else show_metric(metric, value)
    return f"validation {METRICS[metric]} {shown}"


def _value(config: TrainConfig, merit: Merit) -> float:
    """The metric itself."""
    return -merit[0] if _metric(config) in LOWER_IS_BETTER else merit[0]


def _metric(config: TrainConfig) -> Metric:
    return "loss" if config.choose_by in ("top1", "auto") else cast(Metric, config.choose_by)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
