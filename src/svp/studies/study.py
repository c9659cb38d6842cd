"""What a study is: methods x data sets x seeds, read from a YAML file, and the runs that follow from it."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from svp.errors import InputError
from svp.training.config import WITHOUT_EFFECT, TrainConfig, make_config
from svp.training.recipes import ConfigError, merge, normalized, read_yaml
from svp.tuners import get_methods

PUBLISHED = Path(__file__).resolve().parent.parent / "assets" / "published.json"
"""Tables of published accuracies that a study may name."""

STUDIES = PUBLISHED.parent / "studies"
"""Folder of the studies that ship with the package."""

_LONGEST = 200  # characters of a failure; the log has all of it


@dataclass(frozen=True)
class Tuning:
    """How every method's learning rate is chosen before the seeds run: one run per candidate, the best on validation images.

    Args:
        lr: Candidates of all methods that bring none of their own.
        seed: Seed of these runs.
    """

    lr: tuple[float, ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class Job:
    """One run of a study: an ordinary run of `svp train`, by a name that follows from its settings alone.

    Args:
        data: The data set's label in the study.
        method: The method's label.
        config: All settings; `out` is the run directory.
        purpose: "tune" if it is there to choose a learning rate, else "seed".
    """

    data: str
    method: str
    config: TrainConfig
    purpose: str

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
        return (self.directory / "result.json").is_file()

    @property
    def failure(self) -> str | None:
        """Why the run failed the last time it was tried; None if it did not, or was not tried. Long texts end in the log."""
        if not self.failure_file.is_file():
            return None
        reason = self.failure_file.read_text(encoding="utf-8")
        return reason if len(reason) <= _LONGEST else f"{reason[:_LONGEST]}..."

    def __str__(self) -> str:
        rate = f"lr {self.config.lr:g}"
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

    def job(self, folder: Path, lr: float, seed: int, *, tuning: bool = False) -> Job:
        """The run with this learning rate and seed; of the study in `folder`."""
        config = replace(self.config, lr=lr, seed=seed, protocol="validation" if tuning else self.config.protocol)
        config = replace(config, out=str(folder / "runs" / run_name(config)), resume=True)
        return Job(self.data, self.method, config, "tune" if tuning else "seed")


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
            candidates = (float(config.lr or 0.0),)
        return Cell(data, method, config, candidates)


def run_name(config: TrainConfig) -> str:
    """Data, method, learning rate, seed, and a hash of every setting that is not the default.

    The defaults themselves are left out, so that a setting that a later version adds renames no run.
    """
    defaults = TrainConfig(data=config.data, method=config.method)
    different = _difference(config.to_dict(), defaults.to_dict())
    different = {name: value for name, value in different.items() if name not in WITHOUT_EFFECT}
    # what depends on the method or names the run counts even where it is a default
    different |= {"data": config.data, "lr": config.lr, "weight_decay": config.weight_decay}
    options = different.get("method", {})
    different["method"] = {"name": config.method, **options.get(config.method, options)}  # the form that 0.1.0 hashed
    digest = hashlib.sha256(json.dumps(different, sort_keys=True).encode()).hexdigest()[:8]
    return f"{_file_name(_data_name(config.data))}-{_file_name(config.method)}-lr{config.lr:g}-seed{config.seed}-{digest}"


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


def _data_name(data: str) -> str:
    """A data set's name, or a folder's or file's without the ending."""
    return re.sub(r"\.(zip|csv|tsv|tgz|tar|tar\.\w+)$", "", Path(data).name)


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", text)


# reading -----------------------------------------------------------------------------------------------------------------


def read_study(path: str | Path) -> Study:
    """Read a study from a YAML file (see ``docs/studies.md``), or the shipped one of this name.

    Raises:
        ConfigError: The file cannot be read, a section is missing or unknown, or a setting is wrong; names the section.
    """
    return make_study(read_values(path))


def read_values(path: str | Path) -> dict[str, Any]:
    """What a YAML file, or the shipped study of this name, holds; named after the file if it brings no name.

    Raises:
        ConfigError: There is no such file; lists the shipped studies.
    """
    shipped = {file.stem: file for file in sorted(STUDIES.glob("*.yaml"))}
    if not Path(path).exists() and str(path) not in shipped:
        raise ConfigError(f"{path} does not exist; expected a YAML file, or a study that ships with svp: {', '.join(shipped)}")
    file = Path(path) if Path(path).is_file() else shipped.get(str(path), Path(path))
    return {"name": file.stem, **read_yaml(file)}


def make_study(values: Mapping[str, Any]) -> Study:
    """A checked study from what a YAML file holds.

    Raises:
        ConfigError: The same as of ``read_study``.
    """
    values = dict(values)
    known = [f.name for f in fields(Study)]
    for name in values:
        if name not in known:
            hint = ": it belongs under 'settings'" if name in {f.name for f in fields(TrainConfig)} else ""
            raise ConfigError(f"a study has no section {name!r}{hint}; known: {', '.join(known)}")
    for section in ("data", "methods"):
        if not values.get(section):
            raise ConfigError(f"the study has no {section}: expected a list of names, or labels with settings")
    name = values.get("name", "study")
    if not isinstance(name, str) or not name:
        raise ConfigError(f"name is {name!r}, expected a text")
    data = _labelled(values["data"], "data")
    study = Study(
        name=name,
        settings=_settings(values.get("settings") or {}, "settings"),
        data=data,
        methods=_labelled(values["methods"], "method"),
        seeds=_seeds(values.get("seeds", [0])),
        tune=_tuning(values.get("tune")),
        reference=values.get("reference"),
        groups=_groups(values.get("groups") or {}, data),
        published=_published(values.get("published") or []),
        grid={option: tuple(points) for option, points in values.get("grid", {}).items()},
    )
    if study.reference is not None and study.reference not in study.methods:
        raise ConfigError(f"reference is {study.reference!r}, expected one of the methods: {', '.join(study.methods)}")
    if study.grid and not set(study.methods) <= set(grid_points(study.grid)):
        raise ConfigError("a grid beside methods: `svp study sensitivity` makes the methods from the grid, leave them out")
    for table in study.published:
        if not study.published_rows(table):
            columns = ", ".join(f"{column} ({len(members)} data sets)" for column, members in study.columns.items())
            raise ConfigError(f"published: {table.source!r} has no number for one of the columns {columns}; see groups")
    cells = study.cells  # checks the settings of every run
    if study.tune and not any(len(cell.candidates) > 1 for cell in cells):
        raise ConfigError("tune is given, but no method has learning rates to choose from: list them as tune: {lr: [...]}")
    return study


def grid_points(grid: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Label -> the values of a point of the grid."""
    points = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    return {", ".join(f"{name} {value}" for name, value in point.items()): point for point in points}


def to_yaml_values(study: Study) -> dict[str, Any]:
    """What ``make_study`` gives the same study from, as plain values."""
    values = asdict(study)
    values["seeds"] = list(study.seeds)
    values["groups"] = {name: list(members) for name, members in study.groups.items()}
    values["published"] = list(values["published"])
    values["tune"] = {"lr": list(study.tune.lr), "seed": study.tune.seed} if study.tune else None
    values["grid"] = {option: list(points) for option, points in study.grid.items()}
    return {name: value for name, value in values.items() if value not in (None, {}, [])}


def _labelled(entries: Any, key: str) -> dict[str, dict[str, Any]]:
    """Label -> settings, from a list of names (or settings with their `key`) or from labels with settings."""
    section = "methods" if key == "method" else key
    if isinstance(entries, Mapping):
        pairs = [(label, _settings(value or {}, f"{section}.{label}")) for label, value in entries.items()]
    elif isinstance(entries, list):
        pairs = [_unlabelled(entry, key, section) for entry in entries]
    else:
        raise ConfigError(f"{section} is {entries!r}, expected a list of names, or labels with settings")
    labelled: dict[str, dict[str, Any]] = {}
    for label, settings in pairs:
        if not isinstance(label, str):
            raise ConfigError(f"{section}: the label {label!r} is no text; write it in quotes")
        if label in labelled:
            raise ConfigError(f"{section}: {label!r} stands there twice; give one of them another label")
        if key == "method":
            _name_method(settings, label)
        else:
            settings.setdefault("data", label)
        labelled[label] = _with_absolute_paths(settings)
    return labelled


def _unlabelled(entry: Any, key: str, section: str) -> tuple[str, dict[str, Any]]:
    """A name ("digits"), or {data: cifar10.zip, shots: 100}, which is labelled "cifar10, shots 100"."""
    if isinstance(entry, str):
        return (_data_name(entry), {"data": entry}) if key == "data" else (entry, {})
    settings = _settings(entry, section)
    value = settings.get(key)
    if key == "method" and isinstance(value, Mapping):
        value = "+".join(normalized({key: value}).get(key, ())) or None
    if not isinstance(value, str):
        raise ConfigError(f"{section}: {entry!r} has no {key!r}; expected a name, or settings with '{key}: NAME'")
    label = _data_name(value) if key == "data" else value
    return ", ".join([label, *(f"{k} {_short(v)}" for k, v in settings.items() if k != key)]), settings


def _short(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict | list) else str(value)


def _name_method(settings: dict[str, Any], label: str) -> None:
    """The label is the method's name where no other is given: ``svp: {}``, ``svp: {method: {cross: false}}``."""
    part = normalized({name: settings.pop(name) for name in ("method", "options") if name in settings}, f" (methods.{label})")
    method = part.get("method") or normalized({"method": label} | part)["method"]
    try:
        get_methods("+".join(method))
    except InputError as error:
        hint = "" if "method" in part else f"; name it: {label!r}: {{method: NAME}}"
        raise ConfigError(f"methods.{label}: {error}{hint}") from error
    settings["method"] = method


def _settings(values: Any, where: str) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where} is {values!r}, expected settings such as {{epochs: 20}}")
    own = {"out", "resume", "seed"}
    known = {f.name for f in fields(TrainConfig)} - own
    for name in values:
        if name not in known:
            why = "the study sets it" if name in own else "an option of a method stands under method: {NAME: {OPTION: VALUE}}"
            raise ConfigError(f"{where} has no setting {name!r} ({why}); known: {', '.join(sorted(known))}")
    return _with_absolute_paths(values)


def _with_absolute_paths(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Paths that are there, written out: a study's folder may then be read from anywhere."""
    values = dict(settings)
    for name in ("data", "data_root", "weights"):
        if isinstance(values.get(name), str) and Path(values[name]).expanduser().exists():
            values[name] = str(Path(values[name]).expanduser().resolve())
    return values


def _seeds(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list) or not values or not all(type(v) is int and v >= 0 for v in values):
        raise ConfigError(f"seeds is {values!r}, expected a list of whole numbers such as [0, 1, 2]")
    return tuple(dict.fromkeys(values))


def _groups(values: Any, data: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    if not isinstance(values, Mapping):
        raise ConfigError(f"groups is {values!r}, expected {{name: [data sets]}}")
    for name, members in values.items():
        if not isinstance(members, list | tuple) or not members or not set(members) <= set(data):
            raise ConfigError(f"groups.{name} is {members!r}, expected a list of data sets: {', '.join(data)}")
        if name in data or name == "mean":
            raise ConfigError(f"groups: {name!r} is a column already; give the group another name")
    return {name: tuple(members) for name, members in values.items()}


def _published(values: Any) -> tuple[Published, ...]:
    """Names of shipped tables, or tables: {source: ..., rows: {method: {column: top-1 in %}}}."""
    shipped = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    tables = []
    for value in [values] if isinstance(values, str | Mapping) else values:
        if isinstance(value, str) and value not in shipped:
            raise ConfigError(f"published: no table is named {value!r}; known: {', '.join(shipped)}")
        table = shipped[value] if isinstance(value, str) else value
        try:
            rows = {str(name): {str(k): float(v) for k, v in row.items()} for name, row in table["rows"].items()}
            over = {str(column): int(number) for column, number in table.get("over", {}).items()}
            tables.append(Published(str(table["source"]), rows, over, str(table.get("note", ""))))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            form = "{source: TEXT, rows: {METHOD: {COLUMN: PERCENT}}}"
            raise ConfigError(f"published is {table!r}, expected the name of a shipped table or {form}") from error
    return tuple(tables)


def _tuning(values: Any) -> Tuning | None:
    if values is None:
        return None
    if not isinstance(values, Mapping) or not set(values) <= {"lr", "seed"}:
        raise ConfigError(f"tune is {values!r}, expected {{lr: [candidates], seed: 0}}")
    seed = values.get("seed", 0)
    if type(seed) is not int or seed < 0:
        raise ConfigError(f"tune.seed is {seed!r}, expected a whole number")
    return Tuning(learning_rates(values["lr"], "tune.lr") if values.get("lr") else (), seed)


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
