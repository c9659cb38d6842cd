"""``svp study``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from svp.commands import COMMANDS, UsageError
from svp.commands.parsing import run_action

if TYPE_CHECKING:
    from svp.studies import Search, SetSearch, Study


def run(argv: list[str]) -> int:
    actions: dict[str, Callable[..., int | None]] = {
        "compare": compare,
        "ablate": ablate,
        "sensitivity": sensitivity,
        "report": report,
    }
    return run_action(actions, "svp study", f"{COMMANDS['study'].capitalize()}.", argv)


def compare(file: str, *, out: str | None = None, workers: int | None = None, ray: str | None = None) -> int:
    """Compare methods on data sets over seeds: accuracy, differences, cost.

    Args:
        file: Study in YAML, as docs/studies.md describes it, or the name of one that ships with svp, such as digits.
        out: Folder of the study's runs and tables; runs/NAME if left out.
        workers: Runs at a time, on this machine's threads; 1 if left out.
        ray: Address of the Ray cluster to run on; auto takes the one of this machine.
    """
    from svp.studies import read_study

    return _run(read_study(file), out, workers, ray)


def ablate(file: str, *, out: str | None = None, workers: int | None = None, ray: str | None = None) -> int:
    """Measure what each part of SVP contributes; the study brings the methods.

    Args:
        file: Study in YAML, as docs/studies.md describes it, or the name of one that ships with svp, such as digits.
        out: Folder of the study's runs and tables; runs/NAME if left out.
        workers: Runs at a time, on this machine's threads; 1 if left out.
        ray: Address of the Ray cluster to run on; auto takes the one of this machine.
    """
    from svp.studies import read_ablation

    return _run(read_ablation(file), out, workers, ray)


def sensitivity(file: str, *, out: str | None = None, workers: int | None = None, ray: str | None = None) -> int:
    """Measure how much settings matter, at every point of a grid or by a search; or search which methods to combine.

    Args:
        file: Study in YAML, as docs/studies.md describes it.
        out: Folder of the study's runs and tables; runs/NAME if left out.
        workers: Runs at a time, on this machine's threads; 1 if left out.
        ray: Address of the Ray cluster to run on; auto takes the one of this machine.
    """
    from svp.studies import make_search, make_set_search, read_sensitivity
    from svp.studies.study_file import read_values

    values = read_values(file)
    if "space" not in values:
        return _run(read_sensitivity(file), out, workers, ray)
    return _run(make_set_search(values) if "methods" in values else make_search(values), out, workers, ray)


def report(dir: str, *, out: str | None = None) -> None:
    """Write a study's folder as one HTML page that is readable offline.

    Args:
        dir: Folder of the study.
        out: File to write; DIR/report.html if left out.
    """
    from svp.studies import write_report

    print(write_report(dir, out))


def _run(study: Study | Search | SetSearch, out: str | None, workers: int | None, ray: str | None) -> int:
    from svp.studies import Study
    from svp.studies.display import run_and_show, search_and_show

    if workers is not None and ray is not None:
        raise UsageError("--workers and --ray are given, expected only one: a cluster runs as many as it has CPUs or GPUs")
    if workers is not None and workers < 1:
        raise UsageError(f"--workers is {workers}, expected 1 or more")
    folder = Path(out or f"runs/{study.name}")
    try:
        if isinstance(study, Study):
            return 0 if run_and_show(study, folder, workers or 1, ray) else 1
        return 0 if search_and_show(study, folder, workers or 1, ray) else 1
    except KeyboardInterrupt:
        print("\nsvp study: interrupted; the same command goes on", file=sys.stderr)
        return 130
