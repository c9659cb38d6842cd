"""What a person sees of a study: a line per run with the time left, then the tables and where they are."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from svp.paths import write_atomically
from svp.runs import RunDirectory
from svp.studies.comparison import Comparison, has_diverged, run_study
from svp.studies.figures import write_figures, write_search_figure
from svp.studies.search import Search, Trial, run_search
from svp.studies.sets import SetSearch, run_set_search
from svp.studies.study import Job, Study
from svp.studies.tables import make_tables, search_table, to_csv, to_latex, to_markdown, to_runs_csv
from svp.studies.text_table import Table
from svp.terminal import make_console, make_table
from svp.training.display import duration


def run_and_show(study: Study, folder: Path, workers: int = 1, ray: str | None = None) -> bool:
    """Run a study, print its progress and tables, write the tables; returns whether every run has a result."""
    console = make_console()
    cells = f"{len(study.methods)} methods x {len(study.data)} data sets x {len(study.seeds)} seeds"
    console.print(f"{study.name}: {cells}, in {folder}")
    progress = _Progress()

    def begin(missing: int, total: int) -> None:
        progress.begin(missing)
        finished = f", {total - missing} of them finished already" if missing < total else ""
        console.print(f"{total} runs{finished}; their logs are in {folder / 'logs'}\n")

    def report(job: Job, failure: str | None) -> None:
        console.print(progress.line(job, failure))

    comparison = run_study(study, folder, workers=workers, ray=ray, begin=begin, report=report)
    tables = make_tables(comparison)
    console.print()
    for table in tables:
        console.print(_as_rich(table))
    files = write_files(comparison, tables)
    console.print("\n".join(f"{name:10s} {path}" for name, path in files.items()))
    if comparison.failed:
        console.print(f"\n{len(comparison.failed)} runs failed and are missing from the tables:")
        for job in comparison.failed:
            console.print(f"  {job}: {job.failure}\n    log: {job.log}")
        console.print("the same command tries them again, but for those whose loss diverged, as it would once more")
    return comparison.is_complete and not comparison.failed


def search_and_show(search: Search | SetSearch, folder: Path, workers: int = 1, ray: str | None = None) -> bool:
    """Run a search, print its trials and the best of them, write them; returns whether one reached the end."""
    if isinstance(search, SetSearch):
        trials = run_set_search(search, folder, workers, ray, _run_and_show_search)
    else:
        trials = _run_and_show_search(search, folder, workers, ray)
    return bool(trials) and trials[0].state == "complete"


def _run_and_show_search(search: Search, folder: Path, workers: int, ray: str | None) -> list[Trial]:
    console = make_console()
    console.print(f"{search.name}: {search.trials} trials of {', '.join(search.space)} on {search.data}, in {folder}\n")
    trials = run_search(search, folder, workers, ray)
    table = search_table(search, trials)
    console.print()
    console.print(_as_rich(replace(table, rows=table.rows[:10])))
    text = table.to_markdown()
    write_atomically(folder / "search.md", lambda path: path.write_text(text, encoding="utf-8"))
    console.print(f"all trials {folder / 'search.md'}\nfigure     {write_search_figure(search, trials, folder)[0]}")
    if not trials or trials[0].state != "complete":
        console.print(f"no trial reached the end: see {folder / 'logs'}")
    else:
        console.print(f"best       {trials[0].directory / 'config.yaml'}")
    return trials


def write_files(comparison: Comparison, tables: list[Table]) -> Mapping[str, Path]:
    """Write tables and figures into the study's folder; returns what is where."""
    figures = write_figures(comparison)
    texts = {
        "Markdown": ("tables.md", to_markdown(comparison, tables)),
        "LaTeX": ("tables.tex", to_latex(tables)),
        "CSV": ("tables.csv", to_csv(comparison)),
        "runs": ("runs.csv", to_runs_csv(comparison)),
    }
    files = {}
    for what, (name, text) in texts.items():
        files[what] = comparison.folder / name
        write_atomically(files[what], lambda path, text=text: path.write_text(text, encoding="utf-8"))  # type: ignore[misc]
    for name, paths in figures.items():
        files[name] = paths[0]
    return files


class _Progress:
    """Counts the runs of this call and estimates the time left from them."""

    def begin(self, missing: int) -> None:
        self.missing, self.made, self.started = missing, 0, time.time()

    def line(self, job: Job, failure: str | None) -> str:
        self.made += 1
        left = (time.time() - self.started) / self.made * (self.missing - self.made)
        head = f"[{self.made:{len(str(self.missing))}d}/{self.missing}] {job}:"
        if job.purpose == "tune" and has_diverged(job):
            return f"{head} diverged; {duration(left)} left"
        if failure is not None:
            return f"{head} FAILED: {failure} (log: {job.log})"
        if job.until is not None:
            row = RunDirectory(job.directory).read_metrics()[: job.until][-1]
            return f"{head} validation loss {row.selection_loss:.3f} after epoch {row.epoch + 1}; {duration(left)} left"
        result = RunDirectory(job.directory).read_result()
        part, top1 = ("validation", result.selection_top1) if job.purpose == "tune" else ("test", result.top1)
        return f"{head} {part} top-1 {top1:.2%}, {duration(result.seconds)}; {duration(left)} left"


def _as_rich(table: Table) -> object:
    shown = make_table(*table.columns, title=table.title, right=table.columns[1:])
    shown.caption, shown.caption_justify = "\n".join(table.notes), "left"
    for row in table.rows:
        shown.add_row(*(cell.replace("**", "") for cell in row))
    return shown
