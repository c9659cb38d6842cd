"""A study as a YAML file: reading and checking it, and writing it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from svp.errors import InputError
from svp.studies.study import Published, Study, Tuning, data_name, grid_points, learning_rates
from svp.training.config import TrainConfig
from svp.training.recipes import ConfigError, normalized, read_yaml
from svp.tuners import get_methods

PUBLISHED = Path(__file__).resolve().parent.parent / "assets" / "published.json"
"""Tables of published accuracies that a study may name."""

STUDIES = PUBLISHED.parent / "studies"
"""Folder of the studies that ship with the package."""


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


def with_models(study: Study, name: Callable[[str], str]) -> Study:
    """The same study of models whose names are changed by `name`."""

    def changed(settings: Mapping[str, Any]) -> dict[str, Any]:
        return {**settings, "model": name(settings["model"])} if settings.get("model") else dict(settings)

    return replace(
        study,
        settings=changed(study.settings),
        data={label: changed(settings) for label, settings in study.data.items()},
        methods={label: changed(settings) for label, settings in study.methods.items()},
    )


def to_yaml_values(study: Study) -> dict[str, Any]:
    """What ``make_study`` gives the same study from, as plain values."""
    values = asdict(study)
    values["seeds"] = list(study.seeds)
    values["groups"] = {name: list(members) for name, members in study.groups.items()}
    values["published"] = list(values["published"])
    values["tune"] = values["tune"] and {**values["tune"], "lr": list(values["tune"]["lr"])}
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
        return (data_name(entry), {"data": entry}) if key == "data" else (entry, {})
    settings = _settings(entry, section)
    value = settings.get(key)
    if key == "method" and isinstance(value, Mapping):
        value = "+".join(normalized({key: value}).get(key, ())) or None
    if not isinstance(value, str):
        raise ConfigError(f"{section}: {entry!r} has no {key!r}; expected a name, or settings with '{key}: NAME'")
    label = data_name(value) if key == "data" else value
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
    if not isinstance(values, Mapping) or not set(values) <= {"lr", "seed", "epochs"}:
        raise ConfigError(f"tune is {values!r}, expected {{lr: [candidates], seed: 0, epochs: 2}}")
    seed, epochs = values.get("seed", 0), values.get("epochs")
    if type(seed) is not int or seed < 0:
        raise ConfigError(f"tune.seed is {seed!r}, expected a whole number")
    if epochs is not None and (type(epochs) is not int or epochs < 1):
        raise ConfigError(f"tune.epochs is {epochs!r}, expected a number of epochs")
    return Tuning(learning_rates(values["lr"], "tune.lr") if values.get("lr") else (), seed, epochs)
