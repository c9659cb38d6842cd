"""A dependency outside of its range is named at import; `make test-oldest` runs what the ranges begin with."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from svp import versions
from svp.versions import check_versions, outside_of_range

ROOT = Path(__file__).parents[1]


def test_what_is_outside_of_its_range_is_named() -> None:
    installed = version("torch")
    assert outside_of_range(["torch>=2.9", "timm<100", "no-such-package>=3"]) == []
    assert outside_of_range(["torch>=99", "no-such-package>=3"]) == [f"torch {installed} (tested with >=99)"]
    assert outside_of_range(["numba>=0.1,<0.2; extra == 'study'"]) != []


def test_a_warning_names_it(monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder) -> None:
    monkeypatch.setattr(versions, "requires", lambda name: ["timm>=99"])
    with pytest.warns(RuntimeWarning, match=r"not tested with timm .* \(tested with >=99\)"):
        check_versions()


def requirements() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    return [Requirement(text) for text in project["dependencies"] + [text for extra in extras.values() for text in extra]]


def test_the_oldest_versions_are_where_the_ranges_begin() -> None:
    lines = (ROOT / "constraints-oldest.txt").read_text().splitlines()
    pins = {line.partition("==")[0].lower().replace("_", "-"): line.partition("==")[2] for line in lines if "==" in line}
    assert not [line for line in lines if not re.fullmatch(r"#.*|[A-Za-z0-9_-]+==[0-9.]+", line)], "names and versions alone"
    tools = {"mypy", "ruff", "types-pyyaml", "types-psutil"}  # they judge the code, which does not run on them
    docs = {"mkdocs-material", "mkdocstrings", "mkdocs"}
    for requirement in requirements():
        name = requirement.name.lower().replace("_", "-")
        if name in tools | docs:
            continue
        (lowest,) = [part.version for part in requirement.specifier if part.operator == ">="]
        assert Version(pins.get(name, "0")) == Version(lowest), f"{name} begins at {lowest}"
