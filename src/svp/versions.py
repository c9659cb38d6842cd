"""The versions of what this package stands on, compared with the ranges that were tested."""

from __future__ import annotations

import warnings
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement


def outside_of_range(requirements: list[str]) -> list[str]:
    """The installed packages whose version is not in its range, as "torch 2.5.1 (tested with >=2.9)".

    Args:
        requirements: Requirements as ``pyproject.toml`` has them; those of extras count where the package is installed.
    """
    found = []
    for text in requirements:
        requirement = Requirement(text)
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:  # an extra that was not asked for
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            found.append(f"{requirement.name} {installed} (tested with {requirement.specifier})")
    return found


def check_versions() -> None:
    """Warn of versions that were installed over ours later: pip leaves a broken environment without a word at import."""
    try:
        requirements = requires("vim-svp") or []
    except PackageNotFoundError:  # run from a checkout that is not installed
        return
    if wrong := outside_of_range(requirements):
        warnings.warn(f"svp was not tested with {'; '.join(wrong)}: pip install -U vim-svp", RuntimeWarning, stacklevel=2)
