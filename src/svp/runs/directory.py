"""The files of a run directory, all written so that a kill leaves the old or the new one whole."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from svp.data import ImageData, Split
from svp.paths import write_atomically
from svp.runs.result import EpochRow, Result, RunError
from svp.runs.splits_file import OwnImages, read_splits, splits_text
from svp.tuners import AdapterInfo, read_adapter_info

HELD_OUT = "held_out.csv"
"""What the run of a fold says of the images that it held out, in the form of ``out_of_fold.csv``; written last."""


@dataclass(frozen=True)
class RunDirectory:
    """Names and formats of the files of a run.

    ``config.yaml`` everything resolved; ``splits.json`` which image is used for what; ``metrics.jsonl`` a line per epoch;
    ``adapter.safetensors`` and ``adapter.json`` the epoch that is kept; ``last/state.pt`` what a resumed run starts from;
    ``result.json`` the outcome; ``test_predictions.csv`` its answers on the test images; ``curves.png``, ``curves.pdf``. A run
    with folds also has ``folds/`` with a run of each, and ``out_of_fold.csv``, see `svp.runs.out_of_fold`.
    """

    path: Path

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def state_file(self) -> Path:
        return self.path / "last" / "state.pt"

    @property
    def result_file(self) -> Path:
        return self.path / "result.json"

    @property
    def answers_file(self) -> Path:
        return self.path / "test_predictions.csv"

    def write_settings(self, values: Mapping[str, Any], title: str = "") -> None:
        """Write ``config.yaml``, under a comment of one line if `title` is given."""
        comment = f"# {title}\n" if title else ""
        self._write("config.yaml", comment + yaml.safe_dump(dict(values), sort_keys=False))

    def read_settings(self) -> dict[str, Any]:
        """Read ``config.yaml`` back as plain values.

        Raises:
            RunError: This is no run directory, or the file is damaged.
        """
        if not self.config_file.is_file():
            raise RunError(f"{self.path} is no run directory of `svp train`: it holds no config.yaml")
        try:
            values = yaml.safe_load(self.config_file.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise RunError(f"{self.config_file} is damaged: {' '.join(str(error).split())}") from error
        if not isinstance(values, dict):
            raise RunError(f"{self.config_file} is damaged: it holds no settings")
        return values

    def write_splits(self, data: ImageData, contents: Mapping[Path, str] | None = None) -> None:
        """Write ``splits.json``: which image was used for what, so that a later score is one of the same images.

        Args:
            data: The images as the run uses them.
            contents: What stands for the bytes of each image, by which it is found where it was moved or renamed.
        """
        self._write("splits.json", splits_text(data, contents or {}))

    def read_images(self) -> OwnImages | None:
        """Read ``splits.json``; None if there is none, as beside an adapter alone.

        Raises:
            RunError: The file is damaged.
        """
        file = self.path / "splits.json"
        return read_splits(file) if file.is_file() else None

    def read_split(self, name: str) -> Split:
        """A split as it was when the run began.

        Raises:
            RunError: The run has none, or files are gone.
        """
        own = self.read_images()
        if own is None:
            raise RunError(f"{self.path} holds no splits.json: not a run directory of `svp train`")
        images = own.parts[name]
        paths = tuple(own.root / image.name for image in images)
        gone = [path for path in paths if not path.exists()]
        if gone:
            raise RunError(
                f"{len(gone)} of the run's {len(paths)} {name} images are gone, such as {gone[0]}; name a folder by --data"
            )
        targets = tuple(image.target for image in images if image.target)
        return Split(paths, tuple(image.label for image in images), f"the run's own {name} images", targets=targets)

    def how_chosen(self) -> str | None:
        """How the adapter's epoch was chosen, for a table's title; None if this is an adapter without a run.

        Raises:
            RunError: The run was stopped before its first epoch ended: the adapter is untrained.
        """
        if self.result_file.is_file():
            return self.read_result().how_chosen
        if not self.config_file.is_file():
            return None
        epochs = len(self.read_metrics())
        if not epochs:
            raise RunError(f"no epoch of {self.path} is finished: go on with `svp train --out {self.path} --resume`")
        if (self.path / HELD_OUT).is_file():
            return f"last of {epochs} epochs, trained on the other folds, nothing chosen"
        protocol = self.read_settings().get("protocol", "validation")
        if protocol not in _SO_FAR:
            raise RunError(f"{self.config_file} is damaged: protocol is {protocol!r}, expected {', '.join(_SO_FAR)}")
        return f"unfinished run, {_SO_FAR[protocol].format(epochs=epochs)}"

    def read_adapter(self) -> AdapterInfo:
        """What ``adapter.json`` says of the trained model; reads no weights.

        Raises:
            RunError: No epoch of the run is finished.
            WeightsError: There is no adapter, or its file is damaged.
        """
        self.how_chosen()
        return read_adapter_info(self.path)

    def write_metrics(self, rows: Sequence[EpochRow]) -> None:
        """Write ``metrics.jsonl`` whole: a few lines, and never half a line."""
        self._write("metrics.jsonl", "".join(json.dumps(row.to_dict(), allow_nan=False) + "\n" for row in rows))

    def read_metrics(self) -> list[EpochRow]:
        """Read ``metrics.jsonl``: a row for every finished epoch, none if there is no such file.

        Raises:
            RunError: The file is damaged.
        """
        file = self.path / "metrics.jsonl"
        if not file.is_file():
            return []
        try:
            return [EpochRow.from_dict(json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]
        except (RunError, ValueError, TypeError, AttributeError) as error:
            raise RunError(f"{file} is damaged: {error}") from error

    def write_result(self, result: Result) -> None:
        """Write ``result.json``."""
        self._write("result.json", json.dumps(result.to_dict(), indent=2, allow_nan=False) + "\n")

    def read_result(self) -> Result:
        """Read ``result.json``.

        Raises:
            RunError: The run is not finished, or the file is damaged.
        """
        if not self.result_file.is_file():
            raise RunError(
                f"{self.path} holds no result.json: the run is not finished; go on with `svp train --out {self.path} --resume`"
            )
        try:
            return Result.from_dict(json.loads(self.result_file.read_text(encoding="utf-8")))
        except (RunError, ValueError, TypeError, AttributeError) as error:
            raise RunError(f"{self.result_file} is damaged: {error}") from error

    def write_state(self, state: dict[str, Any]) -> None:
        """Write ``last/state.pt``: tensors and plain values only."""
        self.state_file.parent.mkdir(exist_ok=True)
        write_atomically(self.state_file, lambda path: torch.save(state, path))

    def read_state(self) -> dict[str, Any] | None:
        """Read ``last/state.pt``; None if no epoch was finished.

        Raises:
            RunError: The file is damaged.
        """
        if not self.state_file.is_file():
            return None
        try:
            state: dict[str, Any] = torch.load(self.state_file, map_location="cpu", weights_only=True)
        except Exception as error:  # the unpickler raises anything at all on a damaged file
            raise RunError(f"{self.state_file} is damaged: {error}. Delete {self.path} and train anew") from error
        if not isinstance(state, dict) or not {"trained", "optimizer", "metrics", "best"} <= state.keys():
            raise RunError(f"{self.state_file} is damaged: it is no state of a run. Delete {self.path} and train anew")
        return state

    def _write(self, name: str, text: str) -> None:
        write_atomically(self.path / name, lambda path: path.write_text(text, encoding="utf-8"))


_SO_FAR = {
    "validation": "best of {epochs} epochs so far",
    "trainval": "last of {epochs} epochs so far, trained on train + val",
    "paper": "best on test of {epochs} epochs so far (protocol of the paper's code): optimistic",
}
"""How the epoch of a run that was stopped is chosen, by its protocol."""
