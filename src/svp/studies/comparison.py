"""Run a study and gather what its runs found: learning rates chosen on validation images, then scores over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import median

import yaml

from svp.data import open_data
from svp.models.factory import fetch_weights, recorded_name, tagged
from svp.paths import write_atomically
from svp.runs import EpochRow, Result, RunDirectory
from svp.studies.engine import run_jobs
from svp.studies.statistics import Difference, Spread, averaged, paired_difference, spread
from svp.studies.study import Cell, Job, Study, check_classes
from svp.studies.study_file import read_study, to_yaml_values, with_models
from svp.training import ConfigError
from svp.training.halving import from_default, merit_of

_DIVERGED = "NonFiniteLossError"


@dataclass(frozen=True)
class Finding:
    """What the runs of a cell found so far.

    Args:
        cell: Method and data set.
        validation: Top-1 on validation images per candidate learning rate, 0..1, or the loss there; None where the run failed.
        lr: The learning rate chosen, or given; None while it is not known.
        results: Result of each seed.
        jobs: Seed -> the run.
        by_loss: Whether candidates are compared by their loss, as those that are stopped early.
        tied: Whether another candidate is as good on validation images as the one chosen.
    """

    cell: Cell
    validation: Mapping[float, float | None]
    lr: float | None
    results: Mapping[int, Result]
    jobs: Mapping[int, Job] = field(repr=False)
    by_loss: bool = False
    tied: bool = False

    @property
    def top1(self) -> dict[int, float]:
        """Seed -> test top-1, 0..1."""
        return {seed: result.top1 for seed, result in self.results.items()}

    @property
    def at_edge(self) -> bool:
        """Whether the chosen learning rate is the lowest or highest of its candidates: a better one may lie beyond."""
        candidates = self.cell.candidates
        return len(candidates) > 1 and self.lr in (candidates[0], candidates[-1])

    def mean(self, field: str) -> float | None:
        """Mean of a field of the results over the seeds; None if there is none."""
        values = [float(getattr(result, field)) for result in self.results.values()]
        return sum(values) / len(values) if values else None

    @cached_property
    def seconds_per_epoch(self) -> float | None:
        """Median over all epochs of all seeds: a process's first epoch is slower, and a machine may be busy for a while."""
        rows = [row for seed in self.results for row in RunDirectory(self.jobs[seed].directory).read_metrics()]
        return median(row.seconds for row in rows) if rows else None


@dataclass(frozen=True)
class Comparison:
    """A study and its findings so far.

    Args:
        study: What was asked.
        folder: Where its runs lie.
        findings: (data label, method label) -> finding.
    """

    study: Study
    folder: Path
    findings: Mapping[tuple[str, str], Finding]

    def scores(self, method: str, column: str) -> list[dict[int, float]]:
        """Per data set of a column of the study, seed -> test top-1, 0..1."""
        return [self.findings[data, method].top1 for data in self.study.columns[column]]

    def top1(self, method: str, column: str) -> Spread | None:
        """Test top-1 over the seeds, 0..1; None if runs are missing."""
        return spread(list(averaged(self.scores(method, column)).values()))

    def difference(self, method: str, column: str) -> Difference | None:
        """Top-1 less that of the reference, seed by seed; None for the reference itself and where runs are missing."""
        reference = self.study.reference
        return None if reference is None or reference == method else self.paired(method, reference, column)

    def paired(self, method: str, other: str, column: str) -> Difference | None:
        """Top-1 less that of another method, seed by seed; None where runs are missing."""
        return paired_difference(self.scores(method, column), self.scores(other, column))

    def ranking(self, column: str) -> list[str]:
        """The methods that have scores, from the highest mean to the lowest."""
        means = self._means(column)
        return sorted(means, key=means.__getitem__, reverse=True)

    def best(self, column: str) -> list[str]:
        """The methods that have the highest mean."""
        means = self._means(column)
        return [method for method, mean in means.items() if math.isclose(mean, max(means.values()))]

    def _means(self, column: str) -> dict[str, float]:
        return {method: top1.mean for method in self.study.methods if (top1 := self.top1(method, column)) is not None}

    def best_rival(self, method: str, column: str) -> str | None:
        """The method with the highest mean but for this one; None without any."""
        return next((other for other in self.ranking(column) if other != method), None)

    @cached_property
    def results(self) -> list[Result]:
        """Results of every run that counts."""
        return [result for finding in self.findings.values() for result in finding.results.values()]

    @property
    def jobs(self) -> list[Job]:
        """Every run that was or will be made, each once: candidates, then seed by seed where the learning rate is known."""
        seeds = [f.jobs[seed] for seed in self.study.seeds for f in self.findings.values() if seed in f.jobs]
        return _distinct([*_tuning_jobs(self.study, self.folder), *seeds])

    @property
    def failed(self) -> list[Job]:
        """Runs without a result because they failed; a candidate that diverged is an answer and none of them."""
        jobs = [job for job in self.jobs if job.failure and not job.is_finished]
        return [job for job in jobs if not (job.purpose == "tune" and has_diverged(job))]

    @property
    def is_complete(self) -> bool:
        return all(set(finding.results) == set(self.study.seeds) for finding in self.findings.values())


def has_diverged(job: Job) -> bool:
    """Whether the loss of this run became NaN or infinite, as it would again."""
    return (job.failure or "").startswith(_DIVERGED)


def has_ended(job: Job) -> bool:
    """Whether to run it (again) could give nothing new."""
    return job.is_finished or has_diverged(job)


def collect(study: Study, folder: str | Path) -> Comparison:
    """Read what the runs of a study have found so far; runs nothing."""
    folder = Path(folder)
    findings = {}
    for cell in study.cells:
        validation, lr, tied = _choose(cell, study, folder)
        jobs = {seed: cell.job(folder, lr, seed) for seed in study.seeds} if lr is not None else {}
        results = {seed: RunDirectory(job.directory).read_result() for seed, job in jobs.items() if job.is_finished}
        findings[cell.data, cell.method] = Finding(cell, validation, lr, results, jobs, _until(study) is not None, tied)
    return Comparison(study, folder, findings)


def read_folder(folder: str | Path) -> Comparison:
    """The findings of a study by its folder, which holds the study itself, with the tags of its weights, as study.yaml.

    Raises:
        ConfigError: It holds none.
    """
    file = Path(folder) / "study.yaml"
    if not file.is_file():
        raise ConfigError(
            f"{folder} is no folder of a study: it holds no study.yaml; expected the --out of `svp study compare`"
        )
    return collect(with_models(read_study(file), recorded_name), folder)


def run_study(
    study: Study,
    folder: str | Path,
    *,
    workers: int = 1,
    ray: str | None = None,
    begin: Callable[[int, int], None] = lambda missing, total: None,
    report: Callable[[Job, str | None], None] = lambda job, failure: None,
) -> Comparison:
    """Run what a study still lacks: first the candidate learning rates, then, with the best, the seeds.

    Args:
        study: What to run.
        folder: Where its runs lie, or will.
        workers: Processes, see `svp.studies.engine.run_jobs`.
        ray: Address of a Ray cluster to run on instead, see there.
        begin: Called before the first run with the number of runs that are missing and of all.
        report: Called after each run, with the reason if it failed.

    Returns:
        The findings; runs that failed are missing from them and stand in ``failed``.

    Raises:
        ConfigError: A data set is of several labels or of numbers.
        WeightsError: Published weights are not here and cannot be downloaded; a cluster has its own.
    """
    for config in {cell.data: cell.config for cell in study.cells}.values():
        check_classes(config)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(to_yaml_values(with_models(study, tagged)), sort_keys=False, allow_unicode=True)
    write_atomically(folder / "study.yaml", lambda path: path.write_text(text, encoding="utf-8"))

    tried: set[tuple[Path, int | None]] = set()

    def run(jobs: list[Job]) -> None:
        missing = [job for job in jobs if not has_ended(job) and (job.directory, job.until) not in tried]
        tried.update((job.directory, job.until) for job in missing)
        for job, failure in run_jobs(missing, workers, ray):
            report(job, failure)

    missing, total = _count(collect(study, folder))
    if missing and ray is None:
        for name in {cell.config.model for cell in study.cells if cell.config.weights == "published"}:
            fetch_weights(name)
    begin(missing, total)
    if workers > 1 or ray is not None:
        _unpack(study)
    run(_tuning_jobs(study, folder))
    run(collect(study, folder).jobs)
    return collect(study, folder)


def _unpack(study: Study) -> None:
    """Open every data set once, here: what is unpacked or written out then is not so by several processes at a time."""
    for config in {cell.data: cell.config for cell in study.cells}.values():
        with suppress(ValueError, RuntimeError, OSError):  # the runs will tell
            open_data(config.data, config.data_root, seed=config.seed)


def _count(comparison: Comparison) -> tuple[int, int]:
    """Runs that are missing, and all; where the learning rate is not chosen yet, as if the first candidate were.

    A candidate that was stopped early and the same run as it goes on are two.
    """
    study, folder = comparison.study, comparison.folder
    jobs = _tuning_jobs(study, folder)
    for finding in comparison.findings.values():
        lr = finding.cell.candidates[0] if finding.lr is None else finding.lr
        jobs += [finding.cell.job(folder, lr, seed) for seed in study.seeds]
    planned = {(job.directory, job.until): job for job in jobs}
    return sum(not has_ended(job) for job in planned.values()), len(planned)


def _tuning_jobs(study: Study, folder: Path) -> list[Job]:
    """One run per candidate of every cell that has more than one."""
    cells = [cell for cell in study.cells if len(cell.candidates) > 1]
    return _distinct(_candidate(cell, lr, study, folder) for cell in cells for lr in cell.candidates)


def _candidate(cell: Cell, lr: float, study: Study, folder: Path) -> Job:
    return cell.job(folder, lr, study.tuning_seed, tuning=True, until=_until(study))


def _until(study: Study) -> int | None:
    """Epochs after which candidates stop early, if they do."""
    return study.tune.epochs if study.tune else None


def _choose(cell: Cell, study: Study, folder: Path) -> tuple[dict[float, float | None], float | None, bool]:
    """Top-1, or loss, on validation images per candidate; the learning rate that is best by top-1, then by loss, there; and
    whether another is as good, when the one nearest to the method's default is taken.

    The rule is the one that chooses the epoch of a run. Candidates that are stopped early are compared by their loss, as those
    of ``--lr auto``: so few images tell it better. Nothing is chosen before every candidate has ended.
    """
    if len(cell.candidates) == 1:
        return {}, cell.candidates[0], False
    merits: dict[float, tuple[float, float]] = {}
    validation: dict[float, float | None] = {}
    for lr in cell.candidates:
        job = _candidate(cell, lr, study, folder)
        if job.is_finished:
            if job.until is None:
                merits[lr] = _chosen_epoch(job).merit
                validation[lr] = merits[lr][0]
            else:
                row = RunDirectory(job.directory).read_metrics()[: job.until][-1]
                merits[lr], validation[lr] = merit_of(row), row.selection_loss
        elif job.failure:
            validation[lr] = None
    if len(validation) < len(cell.candidates) or not merits:
        return validation, None, False
    best = max(merits.values())
    equals = [lr for lr, merit in merits.items() if merit == best]
    return validation, min(equals, key=lambda lr: from_default(replace(cell.config, lr=lr))), len(equals) > 1


def _chosen_epoch(job: Job) -> EpochRow:
    """The row of the epoch that the run kept."""
    directory = RunDirectory(job.directory)
    return directory.read_metrics()[directory.read_result().epoch_chosen - 1]


def _distinct(jobs: Iterable[Job]) -> list[Job]:
    """Jobs of different settings: labels may name the same run twice."""
    return list({job.directory: job for job in jobs}.values())
