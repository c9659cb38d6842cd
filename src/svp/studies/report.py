"""A study as one HTML page that needs nothing else: sortable tables, figures, every run with its command, settings, log."""

from __future__ import annotations

import base64
import re
import shlex
from html import escape
from pathlib import Path
from string import Template

from svp.paths import write_atomically
from svp.studies.comparison import Comparison, has_diverged, read_folder
from svp.studies.figures import write_figures
from svp.studies.study import Job
from svp.studies.tables import Table, make_tables
from svp.training import RunDirectory

_PAGE = Path(__file__).resolve().parent.parent / "assets" / "report.html"
_LONGEST_LOG = 20_000  # characters; of a longer log its end is shown


def write_report(folder: str | Path, out: str | Path | None = None) -> Path:
    """Write the page of a study, finished or not.

    Args:
        folder: The study's, which holds its study.yaml.
        out: The page; report.html in the folder if None.

    Returns:
        The page.

    Raises:
        ConfigError: The folder holds no study.
    """
    comparison = read_folder(folder)
    page = Path(out) if out is not None else comparison.folder / "report.html"
    text = make_page(comparison)
    write_atomically(page, lambda path: path.write_text(text, encoding="utf-8"))
    return page


def make_page(comparison: Comparison) -> str:
    """The page's HTML."""
    figures = [(name, paths[0]) for name, paths in write_figures(comparison).items()]
    return Template(_PAGE.read_text(encoding="utf-8")).substitute(
        title=escape(comparison.study.name),
        facts=escape(_facts(comparison)),
        tables="\n".join(_table(table) for table in make_tables(comparison)),
        figures="\n".join(_image(name, path) for name, path in figures) or "<p>Nothing has run yet.</p>",
        runs="\n".join(_run(job) for job in comparison.jobs) or "<p>Nothing has run yet.</p>",
        study=escape((comparison.folder / "study.yaml").read_text(encoding="utf-8")),
    )


def _facts(comparison: Comparison) -> str:
    jobs = comparison.jobs
    finished = sum(job.is_finished for job in jobs)
    versions = sorted({f"svp {result['versions']['svp']}" for result in comparison.results})
    failed = f", {len(comparison.failed)} failed" if comparison.failed else ""
    return f"{finished} of {len(jobs)} runs finished{failed}. {', '.join(versions)}"


def _table(table: Table) -> str:
    head = "".join(f"<th><button>{escape(column)}</button></th>" for column in table.columns)
    rows = "\n".join("<tr>" + "".join(f"<td>{_emphasised(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in table.notes)
    return (
        f"<h2>{escape(table.title)}</h2>\n"
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table></div>\n{notes}'
    )


def _emphasised(cell: str) -> str:
    return re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", escape(cell))


def _image(name: str, path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return f'<p><img alt="{escape(name)}" src="data:image/png;base64,{data}"></p>'


def _run(job: Job) -> str:
    directory = RunDirectory(job.directory)
    parts = []
    if job.failure and not job.is_finished:
        parts.append(f"<p>{escape(job.failure)}</p>")
    if directory.config_file.is_file():
        # data, seed and all else stand in the file; only the place is another one
        command = (
            f"svp train --config {shlex.quote(str(directory.config_file))} --out {shlex.quote(f'runs/{job.directory.name}')}"
        )
        config = directory.config_file.read_text(encoding="utf-8")
        parts.append(f"<p>Command</p><pre>{escape(command)}</pre><p>Settings</p><pre>{escape(config)}</pre>")
    if job.log.is_file():
        log = job.log.read_text(encoding="utf-8", errors="replace")
        log = log if len(log) <= _LONGEST_LOG else f"...\n{log[-_LONGEST_LOG:]}"
        parts.append(f"<p>Log</p><pre>{escape(log)}</pre>")
    return f"<details><summary>{escape(str(job))}{_score(job)}</summary>{''.join(parts) or '<p>Not run yet.</p>'}</details>"


def _score(job: Job) -> str:
    if job.is_finished:
        result = RunDirectory(job.directory).read_result()
        part, key = ("validation", "selection_top1") if job.purpose == "tune" else ("test", "top1")
        return f' <span class="score">{part} {result[key]:.2%}</span>'
    state = "diverged" if has_diverged(job) else "failed" if job.failure else "not finished"
    return f' <span class="score {"failed" if job.failure else ""}">{state}</span>'
