"""What a study is: methods x data sets x seeds, and the runs that follow from it."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from svp.data import DataError, open_data
from svp.data.sources.table import is_table
from svp.errors import InputError
from svp.models.factory import name_before_tags
from svp.runs import RunDirectory
from svp.training.config import WITHOUT_EFFECT, TrainConfig
from svp.training.config_sources import make_config
from svp.training.recipes import ConfigError, merge, normalized

_LONGEST = 200  # characters of a failure; the log has all of it


@dataclass(frozen=True)
class Tuning:
    """How every method's learning rate is chosen before the seeds run: one run per candidate, the best on validation images.

    Args:
        lr: Candidates of all methods that bring none of their own.
        seed: Seed of these runs.
        epochs: Epochs after which they stop early, and the best by its loss goes on; None if they run to the end.
    """

    lr: tuple[float, ...] = ()
    seed: int = 0
    epochs: int | None = None


@dataclass(frozen=True)
class Job:
    """One run of a study: an ordinary run of `svp train`, by a name that follows from its settings alone.

    Args:
        data: The data set's label in the study.
        method: The method's label.
        config: All settings; `out` is the run directory.
        purpose: "tune" if it is there to choose a learning rate, else "seed".
        until: Epochs after which it stops, to go on later if it is chosen; None if it runs to the end.
    """

    data: str
    method: str
    config: TrainConfig
    purpose: str
    until: int | None = None

    @property
    def directory(self) -> Path:
        return Path(self.config.out or "")

    @property
    def log(self) -> Path:
        """What the run printed."""
        return self.directory.parent.parent / "logs" / f"{self.directory.name}.log"

    @property
    def failure_file(self) -> Path:
        """Why the run failed the last time it was tried."""
        return self.log.with_suffix(".failed")

    @property
    def is_finished(self) -> bool:
        if (self.directory / "result.json").is_file():
            return True
        return self.until is not None and len(RunDirectory(self.directory).read_metrics()) >= self.until

    @property
    def failure(self) -> str | None:
        """Why the run failed the last time it was tried; None if it did not, or was not tried. Long texts end in the log."""
        if not self.failure_file.is_file():
            return None
        reason = self.failure_file.read_text(encoding="utf-8")
        return reason if len(reason) <= _LONGEST else f"{reason[:_LONGEST]}..."

    def __str__(self) -> str:
        rate = f"lr {self.config.rate:g}"
        named = rate in self.method.split(", ")  # points of a grid are
        return ", ".join([self.data, self.method, *([] if named else [rate]), f"seed {self.config.seed}"])


@dataclass(frozen=True)
class Cell:
    """A method on a data set: its settings, and the learning rates to choose from.

    Args:
        data: The data set's label.
        method: The method's label.
        config: Settings but for learning rate, seed and run directory.
        candidates: Learning rates, one of which is chosen; a single one is given.
    """

    data: str
    method: str
    config: TrainConfig
    candidates: tuple[float, ...]

    def job(self, folder: Path, lr: float, seed: int, *, tuning: bool = False, until: int | None = None) -> Job:
        """The run with this learning rate and seed, or its first epochs; of the study in `folder`."""
        config = replace(self.config, lr=lr, seed=seed)
        if tuning:
            config = replace(config, protocol="validation", folds=None)
        config = replace(config, out=str(folder / "runs" / run_name(config)), resume=True)
        return Job(self.data, self.method, config, "tune" if tuning else "seed", until)


@dataclass(frozen=True)
class Published:
    """Accuracies of others.

    Args:
        source: Where they stand.
        rows: Method -> column of the study -> top-1 in %, and "trained": number of trained parameters, with head.
        over: Column -> number of data sets it is the mean over. A mean over another number is another one and not shown.
        note: What a reader must know.
    """

    source: str
    rows: Mapping[str, Mapping[str, float]]
    over: Mapping[str, int] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Study:
    """Methods x data sets x seeds.

    Args:
        name: Title, and the folder's name below runs/.
        settings: Settings of all runs, in the form of a run's config.yaml.
        data: Label -> the settings that differ: `data`, and what else is special to it.
        methods: Label -> the settings that differ: `method`, and what else is special to it.
        seeds: Seeds of the runs that count.
        tune: How learning rates are chosen; None if every method has its own.
        reference: Label of the method that all others are compared with, seed by seed; None for no such comparison.
        groups: Name -> labels of data sets whose mean gets a column of its own.
        published: Numbers of others to show as extra rows.
        grid: Options of the method that were varied, of a sensitivity study.
    """

    name: str
    settings: Mapping[str, Any]
    data: Mapping[str, Mapping[str, Any]]
    methods: Mapping[str, Mapping[str, Any]]
    seeds: tuple[int, ...] = (0,)
    tune: Tuning | None = None
    reference: str | None = None
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    published: tuple[Published, ...] = ()
    grid: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    @property
    def columns(self) -> dict[str, tuple[str, ...]]:
        """What accuracies are shown of -> the data sets they are the mean over: each alone, the groups, all."""
        every = {"mean": tuple(self.data)} if len(self.data) > 1 else {}
        return {**{data: (data,) for data in self.data}, **self.groups, **every}

    def published_rows(self, table: Published) -> dict[str, list[float | None]]:
        """Method -> top-1 in % per column of the study, as far as it is published of as many data sets."""
        comparable = [name for name, members in self.columns.items() if table.over.get(name, len(members)) == len(members)]
        rows = {
            method: [row.get(column) if column in comparable else None for column in self.columns]
            for method, row in table.rows.items()
        }
        return {method: row for method, row in rows.items() if any(value is not None for value in row)}

    @property
    def tuning_seed(self) -> int:
        """Seed of the runs that learning rates are chosen by."""
        return self.tune.seed if self.tune else 0

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """Every method on every data set, data set by data set."""
        return tuple(self._cell(data, method) for data in self.data for method in self.methods)

    def _cell(self, data: str, method: str) -> Cell:
        layers = (normalized(layer) for layer in (self.settings, self.data[data], self.methods[method]))
        merged: dict[str, Any] = {}
        for layer in layers:
            merged = merge(merged, layer)
        own = merged.get("lr")
        if isinstance(own, list):
            merged.pop("lr")
        where = f"{self.name}: {method} on {data}: "
        try:
            config = make_config(merged)
        except InputError as error:
            raise ConfigError(f"{where}{error}") from error
        if isinstance(own, list):
            candidates = learning_rates(own, f"{where}lr")
        elif own is None and self.tune and self.tune.lr:
            candidates = self.tune.lr
        else:
            candidates = (config.rate,)
        return Cell(data, method, config, candidates)


def check_classes(config: TrainConfig) -> None:
    """Refuse a table of several labels per image or of numbers: tables and tests of a study are about top-1.

    Raises:
        ConfigError: It is one.
    """
    if not is_table(Path(config.data)):
        return
    try:
        data = open_data(config.data, config.data_root, group=config.group, task=config.task, label=config.label)
    except DataError:
        return  # the runs will tell
    if data.outputs:
        raise ConfigError(f"{config.data} is of {data.task.title}, and a study compares classifiers: train it by svp train")


def run_name(config: TrainConfig) -> str:
    """Data, method, learning rate, seed, and a hash of every setting that is not the default.

    The defaults themselves are left out, so that a setting that a later version adds renames no run.
    """
    defaults = TrainConfig(data=config.data, method=config.method)
    model = name_before_tags(config.model) if config.weights == "published" else config.model.partition(".")[0]
    different = _difference(replace(config, model=model).to_dict(), defaults.to_dict())
    different = {name: value for name, value in different.items() if name not in WITHOUT_EFFECT}
    if different.get("choose_by") == "top1":
        del different["choose_by"]  # what "auto" means here, and was the default
    # what depends on the method or names the run counts even where it is a default
    different |= {"data": config.data, "lr": config.rate, "weight_decay": config.weight_decay}
    options = different.get("method", {})
    different["method"] = {"name": config.method, **options.get(config.method, options)}  # the form that 0.1.0 hashed
    digest = hashlib.sha256(json.dumps(different, sort_keys=True).encode()).hexdigest()[:8]
    return f"{_file_name(data_name(config.data))}-{_file_name(config.method)}-lr{config.rate:g}-seed{config.seed}-{digest}"


def _difference(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What of nested `values` is not the default."""
    different = {}
    for name, value in values.items():
        default = defaults.get(name)
        if isinstance(value, Mapping) and isinstance(default, Mapping):
            inner = _difference(value, default)
            if inner:
                different[name] = inner
        elif value != default:
            different[name] = value
    return different


def data_name(data: str) -> str:
    """A data set's name, or a folder's or file's without the ending."""
    return re.sub(r"\.(zip|csv|tsv|tgz|tar|tar\.\w+)$", "", Path(data).name)


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", text)


# reading -----------------------------------------------------------------------------------------------------------------


def grid_points(grid: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Label -> the values of a point of the grid."""
    points = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    return {", ".join(f"{name} {value}" for name, value in point.items()): point for point in points}


def learning_rates(values: Iterable[Any], where: str) -> tuple[float, ...]:
    """Candidates, each once, from low to high.

    Raises:
        ConfigError: One is no number above 0.
    """
    try:
        numbers = sorted({float(value) for value in values})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where} is {values!r}, expected a list of numbers above 0") from error
    if not numbers or not all(number > 0 and math.isfinite(number) for number in numbers):
        raise ConfigError(f"{where} is {values!r}, expected a list of numbers above 0")
    return tuple(numbers)
