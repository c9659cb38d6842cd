"""The trackers of accelerate by name, each with the names that it gives to a run, and one that writes a CSV file."""

from __future__ import annotations

import csv
import os
import secrets
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate.tracking import GeneralTracker, MLflowTracker, TensorBoardTracker, WandBTracker

from svp.errors import UnavailableError
from svp.paths import write_atomically
from svp.training.recipes import ConfigError

PACKAGES = {"csv": "", "mlflow": "mlflow", "tensorboard": "tensorboard", "wandb": "wandb"}
"""Trackers and the package that each of them needs."""


def names_of_trackers(joined: str | None) -> tuple[str, ...]:
    """The trackers that a setting names, joined by "+".

    Raises:
        ConfigError: One is unknown or named twice.
    """
    names = tuple(joined.split("+")) if joined else ()
    if not set(names) <= set(PACKAGES) or len(set(names)) < len(names):
        raise ConfigError(f"tracker is {joined!r}, expected one or several, joined by +, of {', '.join(PACKAGES)}")
    return names


def check_trackers(joined: str | None) -> None:
    """Raise ``UnavailableError`` if the package of a tracker is missing."""
    for name in names_of_trackers(joined):
        package = PACKAGES[name]
        spec = find_spec(package) if package else None
        if package and (spec is None or spec.origin is None):  # a folder of that name, such as W&B leaves, is no package
            raise UnavailableError(f"tracker {name} needs the package {package}: pip install {package}")


def _tensorboard(run: Path, known: dict[str, Any]) -> GeneralTracker:
    # steps after those that were sent are what a run that was killed left
    return TensorBoardTracker("tensorboard", run, purge_step=known["epochs"] + 1 if "begun" in known else None)


def _wandb(run: Path, known: dict[str, Any]) -> GeneralTracker:
    known.setdefault("id", secrets.token_hex(4))
    project = os.environ.get("WANDB_PROJECT") or "svp"
    return WandBTracker(project, name=run.name, dir=str(run), id=known["id"], resume="allow")


def _mlflow(run: Path, known: dict[str, Any]) -> GeneralTracker:
    import mlflow

    own = mlflow.active_run() is not None  # a run of the caller's: ours is one within
    return MLflowTracker("svp", run_id=known.get("run_id"), run_name=run.name, nested_run=own)


class CsvTracker(GeneralTracker):  # type: ignore[misc] # accelerate has no annotations
    """``metrics.csv``: a row for every step, a column for every number.

    Args:
        file: Written anew after every step; what it holds already is kept.
    """

    name = "csv"
    requires_logging_directory = False

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file
        self._rows: dict[str, dict[str, Any]] = {}

    @property
    def tracker(self) -> Path:
        return self._file

    def start(self) -> None:
        if self._file.is_file():
            with self._file.open(encoding="utf-8", newline="") as stream:
                self._rows = {row["step"]: {k: v for k, v in row.items() if v != ""} for row in csv.DictReader(stream)}

    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        row = self._rows.setdefault(str(step), {"step": step})
        row |= values
        columns = list(dict.fromkeys(name for row in self._rows.values() for name in row))
        write_atomically(self._file, lambda path: self._write(path, columns))

    def _write(self, path: Path, columns: list[str]) -> None:
        with path.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self._rows.values())


TRACKERS: dict[str, Callable[[Path, dict[str, Any]], GeneralTracker]] = {
    "csv": lambda run, known: CsvTracker(run / "metrics.csv"),
    "mlflow": _mlflow,
    "tensorboard": _tensorboard,
    "wandb": _wandb,
}
"""What makes each tracker, of the run directory and what ``trackers.json`` knows of the tracker."""
