"""A study as one HTML page that needs nothing else: sortable tables, figures, every run with its command, settings, log."""

from __future__ import annotations

import base64
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

from svp.pages import emphasized, write_page
from svp.runs import RunDirectory
from svp.studies.comparison import Comparison, has_diverged, read_folder
from svp.studies.figures import write_figures
from svp.studies.study import Job
from svp.studies.tables import make_tables
from svp.studies.text_table import Table

_LONGEST_LOG = 20_000  # characters; of a longer log its end is shown


def write_report(folder: str | Path, out: str | Path | None = None) -> Path:
    """Write the page of a study, finished or not.

    Args:
        folder: Folder of the study, which holds its study.yaml.
        out: File that is written; report.html in the folder if None.

    Returns:
        The page.

    Raises:
        ConfigError: The folder holds no study.
    """
    comparison = read_folder(folder)
    page = Path(out) if out is not None else comparison.folder / "report.html"
    write_page(
        page,
        "study.html",
        title=comparison.study.name,
        facts=[_facts(comparison)],
        tables=[_with_bold_cells(table) for table in make_tables(comparison)],
        figures={name: _as_base64(paths[0]) for name, paths in write_figures(comparison).items()},
        runs=[_describe(job) for job in comparison.jobs],
        study=(comparison.folder / "study.yaml").read_text(encoding="utf-8"),
    )
    return page


def _facts(comparison: Comparison) -> str:
    jobs = comparison.jobs
    finished = sum(job.is_finished for job in jobs)
    versions = sorted({f"svp {result.versions['svp']}" for result in comparison.results})
    failed = f", {len(comparison.failed)} failed" if comparison.failed else ""
    return f"{finished} of {len(jobs)} runs finished{failed}. {', '.join(versions)}"


def _with_bold_cells(table: Table) -> Table:
    return replace(table, rows=tuple(tuple(emphasized(cell) for cell in row) for row in table.rows))


def _as_base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode("ascii")


def _describe(job: Job) -> dict[str, Any]:
    """The values that the page shows of a run."""
    failure = job.failure if not job.is_finished else None
    return dict(name=str(job), score=_score(job), failure=failure, texts=_texts(job))


def _texts(job: Job) -> dict[str, str]:
    """Command, settings and log of a run, as far as they exist."""
    file = RunDirectory(job.directory).config_file
    texts = {}
    if file.is_file():
        # data, seed and all else stand in the file; only the place is another one
        out = shlex.quote(f"runs/{job.directory.name}")
        texts["Command"] = f"svp train --config {shlex.quote(str(file))} --out {out}"
        texts["Settings"] = file.read_text(encoding="utf-8")
    if job.log.is_file():
        log = job.log.read_text(encoding="utf-8", errors="replace")
        texts["Log"] = log if len(log) <= _LONGEST_LOG else f"...\n{log[-_LONGEST_LOG:]}"
    return texts


def _score(job: Job) -> str:
    if job.is_finished:
        result = RunDirectory(job.directory).read_result()
        return f"validation {result.selection_top1:.2%}" if job.purpose == "tune" else f"test {result.top1:.2%}"
    return "diverged" if has_diverged(job) else "failed" if job.failure else "not finished"
