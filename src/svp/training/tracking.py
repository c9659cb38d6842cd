"""A run's numbers in TensorBoard, Weights & Biases, MLflow or a CSV file, through the trackers of accelerate.

What each tracker was sent stands in ``trackers.json`` of the run directory, so that a resumed run goes on where it stopped,
in the same run of the tracker.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate.tracking import GeneralTracker

from svp.errors import UnavailableError
from svp.paths import write_atomically
from svp.runs.directory import RunDirectory
from svp.runs.result import EpochRow, Result
from svp.training.setup import Prepared
from svp.training.trackers import TRACKERS, names_of_trackers


class Tracking:
    """Sends a run's numbers to its trackers. One that fails while the run goes on is left out from then on, with a note.

    Args:
        directory: The run.
        trackers: Started ones, by name.
        sent: What each was sent, as ``trackers.json`` holds it.
        say: Told of what fails.
    """

    def __init__(
        self,
        directory: RunDirectory,
        trackers: dict[str, GeneralTracker],
        sent: dict[str, dict[str, Any]],
        say: Callable[[str], None],
    ) -> None:
        self._directory, self._trackers, self._sent, self._say = directory, trackers, sent, say

    def before(self, after_epoch: Callable[[EpochRow], None] | None) -> Callable[[EpochRow], None]:
        """What is called after every epoch: it sends the epoch, then calls `after_epoch`."""

        def call(row: EpochRow) -> None:
            self._send_epochs()
            if after_epoch is not None:
                after_epoch(row)

        return call

    def result(self, result: Result) -> None:
        """Send the scores of the test images."""
        self._send_epochs()
        values = {f"test/{metric}": value for metric, value in result.metrics.items() if value is not None}
        values |= {"epoch_chosen": result.epoch_chosen, "trainable_parameters": result.trainable_parameters}
        for name in list(self._trackers):
            self._log(name, values, result.epochs)

    def finish(self) -> None:
        """Close the trackers."""
        for name, tracker in self._trackers.items():
            try:
                tracker.finish()
            except Exception as error:
                self._say(f"tracker {name} could not be closed: {_line(error)}")

    def _send_epochs(self) -> None:
        if not self._trackers:
            return
        rows = self._directory.read_metrics()
        for name in list(self._trackers):
            for row in rows[self._sent[name]["epochs"] :]:
                if self._log(name, numbers_of(row), row.epoch + 1):
                    self._sent[name]["epochs"] = row.epoch + 1
        _write_sent(self._directory, self._sent)

    def _log(self, name: str, values: dict[str, float], step: int) -> bool:
        if name not in self._trackers:
            return False
        try:
            self._trackers[name].log(values, step=step)
        except Exception as error:
            self._say(f"tracker {name} failed and is left out from here on: {_line(error)}")
            del self._trackers[name]
            return False
        return True


@contextmanager
def tracked(prepared: Prepared) -> Iterator[Tracking]:
    """Start the trackers of a run, in the first process alone, and close them however the run ends.

    Raises:
        UnavailableError: A tracker cannot be started.
    """
    names = names_of_trackers(prepared.config.tracker) if prepared.accelerator.is_main_process else ()
    sent = _read_sent(prepared.directory) if names else {}
    tracking = Tracking(prepared.directory, started := {}, sent, prepared.display.say)
    try:
        for name in names:
            known = sent.setdefault(name, {"epochs": 0})
            started[name] = _start(name, prepared, known)
        if names:
            _write_sent(prepared.directory, sent)
        yield tracking
    finally:
        tracking.finish()


def numbers_of(row: EpochRow) -> dict[str, float]:
    """What is sent of an epoch, by name: ``train/loss``, ``val/top1``, ``lr``."""
    part = row.selection_split
    values = {
        "train/loss": row.train_loss,
        f"{part}/loss": row.selection_loss,
        f"{part}/top1": row.selection_top1,
        f"{part}/{row.chosen_by}": row.selection_value,
        "lr": row.lr,
        "seconds": row.seconds,
    }
    return {name: value for name, value in values.items() if value is not None}


def _start(name: str, prepared: Prepared, known: dict[str, Any]) -> GeneralTracker:
    """Start a tracker: on a new run, which is told the settings, or on the one that it is known to have."""
    is_new = "begun" not in known
    try:
        tracker = TRACKERS[name](prepared.directory.path.resolve(), known)
        tracker.start()
        if name == "mlflow":
            known["run_id"] = tracker.tracker.info.run_id
        if is_new:
            settings = prepared.config.to_dict()
            tracker.store_init_configuration({"method": prepared.config.method, **_flat(settings)})
    except Exception as error:  # of a package that is not ours, or of its server
        raise UnavailableError(f"tracker {name} cannot be started: {_line(error)}. The run goes without --tracker") from error
    known["begun"] = True
    return tracker


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str | float]:
    """Nested settings as ``augment.hflip``, each a number or text."""
    flat: dict[str, str | float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value if isinstance(value, str | int | float) else json.dumps(value)
    return flat


def _file(directory: RunDirectory) -> Path:
    return directory.path / "trackers.json"


def _read_sent(directory: RunDirectory) -> dict[str, dict[str, Any]]:
    try:
        known: dict[str, dict[str, Any]] = json.loads(_file(directory).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # a new run; without the file, one that is resumed is a new one to its trackers
        return {}
    return known


def _write_sent(directory: RunDirectory, sent: dict[str, dict[str, Any]]) -> None:
    text = json.dumps(sent, indent=2) + "\n"
    write_atomically(_file(directory), lambda path: path.write_text(text, encoding="utf-8"))


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
