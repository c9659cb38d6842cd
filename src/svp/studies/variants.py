"""Studies whose methods are not listed but follow: the parts of SVP, the points of a grid."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from svp.studies.study import Study, grid_points
from svp.studies.study_file import make_study, read_values
from svp.training.config import SETTINGS
from svp.training.recipes import ConfigError, normalized, read_yaml

_ABLATION = Path(__file__).resolve().parent.parent / "assets" / "ablation.yaml"


def read_ablation(path: str | Path) -> Study:
    """A study of the parts of SVP, whose variants are those of ``assets/ablation.yaml``.

    Raises:
        ConfigError: The same as of ``read_study``; or the file lists methods.
    """
    values = _read(path, "ablate")
    values["methods"] = read_yaml(_ABLATION)
    values.setdefault("reference", "SVP")
    return make_study(values)


def read_sensitivity(path: str | Path) -> Study:
    """A study of how much settings matter: every point of a grid is a method.

    The file's ``grid`` maps options of the method, or settings of the run, to the values they take. The method is the one in
    ``settings``, SVP if there is none. With ``points: N`` only N points take part, drawn at random; the first of a larger N
    are those of a smaller one.

    Raises:
        ConfigError: The same as of ``read_study``; or the file lists methods, has no grid, or a grid of too few points.
    """
    values = _read(path, "sensitivity")
    grid = values.get("grid")
    if not isinstance(grid, Mapping) or not grid or not all(isinstance(v, list) and v for v in grid.values()):
        raise ConfigError(
            f"grid is {grid!r}, expected options with their values: {{shared_layers: [1, 8], hidden_dim: [16, 64]}}"
        )
    method = method_name(values)
    points = _drawn(grid_points(grid), values.pop("points", None))
    values["methods"] = {label: point_settings(point, method) for label, point in points.items()}
    return make_study(values)


def _drawn(points: dict[str, dict[str, Any]], number: Any) -> dict[str, dict[str, Any]]:
    if number is None:
        return points
    if type(number) is not int or not 1 <= number <= len(points):
        raise ConfigError(f"points is {number!r}, expected a whole number from 1 to {len(points)}, the size of the grid")
    order = np.random.default_rng(0).permutation(len(points))
    labels = list(points)
    return {labels[place]: points[labels[place]] for place in sorted(order[:number])}


def point_settings(point: Mapping[str, Any], method: str) -> dict[str, Any]:
    """Settings of a run at a point: names of settings are these, all others are options (METHOD.OPTION of several methods)."""
    own = {name: value for name, value in point.items() if name in SETTINGS}
    options: dict[str, Any] = {}
    for name, value in point.items():
        if name not in own:
            part, _, option = name.rpartition(".")
            (options.setdefault(part, {}) if part else options)[option] = value
    return {**own, "method": method, "options": options}


def method_name(values: Mapping[str, Any]) -> str:
    """The method that the settings of a study name; SVP if they name none."""
    return "+".join(normalized(values.get("settings") or {}).get("method", ("svp",)))


def _read(path: str | Path, action: str) -> dict[str, Any]:
    values = read_values(path)
    if "methods" in values:
        raise ConfigError(f"{path} lists methods, which `svp study {action}` makes itself; for these use `svp study compare`")
    return values
