"""The files of a run directory, all written so that a kill leaves the old or the new one whole."""

from __future__ import annotations

import ctypes
import gc
import json
import platform
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml

from svp import __version__
from svp.data import ImageData, Split
from svp.errors import SvpError
from svp.paths import write_atomically
from svp.training.config import TrainConfig, make_config
from svp.training.protocol import how_chosen_so_far


class RunError(SvpError, RuntimeError):
    """A run directory cannot be used as asked; the message says why and what to do."""


@dataclass(frozen=True)
class RunDirectory:
    """Names and formats of the files of a run.

    ``config.yaml`` everything resolved; ``splits.json`` which image is used for what; ``metrics.jsonl`` a line per epoch;
    ``adapter.safetensors`` and ``adapter.json`` the epoch that is kept; ``last/state.pt`` what a resumed run starts from;
    ``result.json`` the outcome; ``curves.png``, ``curves.pdf``.
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

    def write_config(self, config: TrainConfig) -> None:
        """Write ``config.yaml``; ``svp train --config`` reads it back. The recipe's values stand in it, its name on top."""
        values = config.to_dict()
        values.pop("resume")
        recipe = values.pop("recipe")
        title = f"# recipe: {recipe}\n" if recipe else ""
        self._write("config.yaml", title + yaml.safe_dump(values, sort_keys=False))

    def read_config(self) -> TrainConfig:
        """Read ``config.yaml`` back.

        Raises:
            RunError: This is no run directory.
        """
        if not self.config_file.is_file():
            raise RunError(f"{self.path} is no run directory of `svp train`: it holds no config.yaml")
        return make_config({}, self.config_file)

    def write_splits(self, data: ImageData) -> None:
        """Write ``splits.json``: which image was used for what, so that a later score is one of the same images."""
        self._write("splits.json", _splits_text(data))

    def differs(self, data: ImageData) -> bool:
        """Whether ``splits.json`` is there and names other images."""
        file = self.path / "splits.json"
        return file.is_file() and file.read_text(encoding="utf-8") != _splits_text(data)

    def read_split(self, name: str) -> Split:
        """A split as it was when the run began.

        Raises:
            RunError: The run has none, or files are gone.
        """
        file = self.path / "splits.json"
        if not file.is_file():
            raise RunError(f"{self.path} holds no splits.json: not a run directory of `svp train`")
        try:
            splits = json.loads(file.read_text(encoding="utf-8"))
            root = Path(splits["root"])
            paths = tuple(root / path for path, _ in splits[name])
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{file} is damaged: {error!r}") from error
        gone = [path for path in paths if not path.exists()]
        if gone:
            raise RunError(
                f"{len(gone)} of the run's {len(paths)} {name} images are gone, such as {gone[0]}; name a folder by --data"
            )
        return Split(paths, tuple(label for _, label in splits[name]), f"the run's own {name} images")

    def how_chosen(self) -> str | None:
        """How the adapter's epoch was chosen, for a table's title; None if this is an adapter without a run.

        Raises:
            RunError: The run was stopped before its first epoch ended: the adapter is untrained.
        """
        if self.result_file.is_file():
            return str(self.read_result()["how_chosen"])
        if not self.config_file.is_file():
            return None
        metrics = self.path / "metrics.jsonl"
        epochs = len(metrics.read_text(encoding="utf-8").splitlines()) if metrics.is_file() else 0
        if not epochs:
            raise RunError(f"no epoch of {self.path} is finished: go on with `svp train --out {self.path} --resume`")
        return how_chosen_so_far(self.read_config().protocol, epochs)

    def write_metrics(self, rows: Sequence[dict[str, Any]]) -> None:
        """Write ``metrics.jsonl`` whole: a few lines, and never half a line."""
        self._write("metrics.jsonl", "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))

    def write_result(self, result: dict[str, Any]) -> None:
        """Write ``result.json``."""
        self._write("result.json", json.dumps(result, indent=2, allow_nan=False) + "\n")

    def read_result(self) -> dict[str, Any]:
        """Read ``result.json``.

        Raises:
            RunError: The run is not finished.
        """
        if not self.result_file.is_file():
            raise RunError(
                f"{self.path} holds no result.json: the run is not finished; go on with `svp train --out {self.path} --resume`"
            )
        result: dict[str, Any] = json.loads(self.result_file.read_text(encoding="utf-8"))
        return result

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


def is_temporary(path: Path) -> bool:
    """Whether this is what ``write_atomically`` leaves behind when killed."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def _splits_text(data: ImageData) -> str:
    parts = {"train": data.train, "val": data.val, "test": data.test}
    splits = {
        name: [[_below(data.root, path), label] for path, label in zip(s.paths, s.labels, strict=True)]
        for name, s in parts.items()
    }
    origins = {name: split.origin for name, split in parts.items()}
    return json.dumps({"root": str(data.root.resolve()), "origins": origins, **splits}) + "\n"


def _below(root: Path, path: Path) -> str:
    """Relative to the root if it lies there, absolute if not, as the images of a table."""
    return (path.relative_to(root) if path.is_relative_to(root) else path.absolute()).as_posix()


def environment() -> dict[str, str]:
    """Versions that a result depends on."""
    found = {"python": platform.python_version(), "platform": platform.platform(), "svp": __version__}
    for package in ("torch", "torchvision", "timm", "accelerate", "numpy", "pillow", "numba"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def reset_peak_memory(device: torch.device) -> None:
    """Begin to measure ``peak_memory_mb`` anew: a process may hold several runs, one after the other.

    Memory that earlier runs gave back goes back to the system first, as far as the system takes it. Where the mark cannot
    be reset (all but Linux and GPUs), the peak is the highest of all runs of the process so far.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # a container may forbid it; another C library may lack it
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory since ``reset_peak_memory``, in MB: of the GPU where there is one, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset) / 1e6
    if sys.platform == "linux":  # ru_maxrss cannot be reset, and begins with that of the process which started this one
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3
