"""A comparison as tables: Markdown for people, LaTeX for papers, CSV for programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from typing import Any

from svp.studies.comparison import Comparison, Finding
from svp.studies.search import Search, Trial
from svp.studies.statistics import Difference, Spread
from svp.studies.text_table import Table

MISSING = "-"
_FEWEST_SEEDS = 3  # of one no spread is known, of two nearly none


def make_tables(comparison: Comparison) -> list[Table]:
    """Means with intervals, accuracy, differences to the reference, cost, and learning rates where they were chosen."""
    tables = [accuracy_table(comparison)]
    if len(comparison.study.data) > 1 and len(comparison.study.methods) > 1:
        tables.insert(0, summary_table(comparison))
    if comparison.study.reference is not None:
        tables.append(difference_table(comparison))
    tables.append(cost_table(comparison))
    if any(len(finding.cell.candidates) > 1 for finding in comparison.findings.values()):
        tables.append(learning_rate_table(comparison))
    return tables


def summary_table(comparison: Comparison) -> Table:
    """The mean over all data sets with its interval, the best first, beside the reference and the best of the others."""
    study, column = comparison.study, list(comparison.study.columns)[-1]
    reference, rows = study.reference, []
    firsts = [comparison.best(data) for data in study.data]
    for method in comparison.ranking(column):
        rival = comparison.best_rival(method, column)
        to_rival = MISSING if rival is None else f"{_difference(comparison.paired(method, rival, column))} ({rival})"
        found = [comparison.findings[data, method] for data in study.data]
        beside = [] if reference is None else [_difference(comparison.difference(method, column)), _lowest(comparison, method)]
        rows.append(
            (
                method,
                _mean(comparison.top1(method, column), len(study.seeds)),
                *beside,
                to_rival,
                f"{sum(method in best for best in firsts)}",
                _range([finding.mean("trainable_parameters_without_head") for finding in found]),
            )
        )
    titles = [] if reference is None else [f"to {reference}", f"lowest to {reference}"]
    note = "The mean over the data sets is taken seed by seed. Differences are in points of top-1, seed by seed: one seed has "
    note += "the same images and the same split for every method."
    if len(study.seeds) > 1:
        note += " In brackets the 95 % interval of the mean by Student's t over seeds, the data sets as they are."
    if reference is not None:
        note += f" Lowest to {reference}: on the data set where it is furthest behind."
    seeds = f"{len(study.seeds)} seeds" if len(study.seeds) > 1 else "one seed"
    title = f"Mean test top-1 over {len(study.data)} data sets in %, {seeds}"
    columns = ("method", "mean", *titles, "to the best other", "first on", "trained, without head")
    return Table(title, columns, tuple(rows), (note,))


def accuracy_table(comparison: Comparison) -> Table:
    """Test top-1 per method and data set, and its mean over the data sets."""
    study = comparison.study
    rows = [
        (method, *(_spread(comparison.top1(method, column), len(study.seeds)) for column in study.columns))
        for method in study.methods
    ]
    notes = list(_protocols(comparison))
    if len(study.seeds) < _FEWEST_SEEDS:
        notes.append("Differences between methods may be chance: list at least three seeds.")
    for number, table in enumerate(study.published, start=1):
        rows += [
            (f"{name} [{number}]", *(_number(value, "{:.2f}") for value in row))
            for name, row in study.published_rows(table).items()
        ]
        notes.append(f"[{number}] published, not run here: {table.source}. {table.note}".strip())
    seeds = f"{len(study.seeds)} seeds" if len(study.seeds) > 1 else "one seed"
    title = f"Test top-1 in %, {'mean ± standard deviation over ' if len(study.seeds) > 1 else ''}{seeds}"
    return Table(title, ("method", *study.columns), tuple(rows), tuple(notes))


def difference_table(comparison: Comparison) -> Table:
    """Paired differences to the reference."""
    study = comparison.study
    rows = [
        (method, *(_difference(comparison.difference(method, column)) for column in study.columns))
        for method in study.methods
        if method != study.reference
    ]
    note = (
        "Same seed, same images, same split: differences seed by seed; in brackets the 95 % interval of their mean by "
        "Student's t over seeds, the data sets as they are."
    )
    return Table(f"Difference to {study.reference} in points of top-1", ("method", *study.columns), tuple(rows), (note,))


def cost_table(comparison: Comparison) -> Table:
    """What is trained, how long an epoch takes, how much memory."""
    study = comparison.study
    several = len(study.data) > 1
    columns = ["method", "trained, without head", "trained, with head"]
    columns += [f"s/epoch{', ' + data if several else ''}" for data in study.data] + ["peak memory, MB"]
    rows = []
    for method in study.methods:
        found = [comparison.findings[data, method] for data in study.data]
        rows.append(
            (
                method,
                _range([finding.mean("trainable_parameters_without_head") for finding in found]),
                _range([finding.mean("trainable_parameters") for finding in found]),
                *(_number(finding.seconds_per_epoch, "{:.1f}") for finding in found),
                _number(max((peak for f in found if (peak := f.mean("peak_memory_mb")) is not None), default=None), "{:,.0f}"),
            )
        )
    for number, table in enumerate(study.published, start=1):
        empty = [MISSING] * (len(columns) - 3)
        rows += [
            (f"{name} [{number}]", MISSING, f"{table.rows[name]['trained']:,.0f}", *empty)
            for name in study.published_rows(table)
            if "trained" in table.rows[name]
        ]
    return Table("Cost", tuple(columns), tuple(rows), (_machine(comparison),))


def learning_rate_table(comparison: Comparison) -> Table:
    """Which learning rate was chosen, of which candidates."""
    study = comparison.study
    rows = [(method, *(_choice(comparison.findings[data, method]) for data in study.data)) for method in study.methods]
    epochs = study.tune.epochs if study.tune else None
    best = "the best top-1 on validation images (in brackets, %)"
    if epochs is not None:
        best = f"the lowest loss on validation images (in brackets) after epoch {epochs}"
    notes = [
        f"In bold the one chosen: {best} of one run per candidate with seed {study.tuning_seed}; test images took no part. A "
        "single number was given, not chosen."
    ]
    counts = {len(finding.cell.candidates) for finding in comparison.findings.values()}
    if len(counts) > 1:
        notes.append(f"The methods did not have the same budget: {', '.join(map(str, sorted(counts)))} candidates.")
    if any(finding.at_edge for finding in comparison.findings.values()):
        notes.append("* lowest or highest of its candidates: a better one may lie beyond.")
    for finding in comparison.findings.values():
        if finding.tied:
            notes.append(
                f"{finding.cell.method} on {finding.cell.data}: several candidates are equally good, as within the warm-up; "
                "the one nearest to the default was taken."
            )
    return Table("Learning rates", ("method", *study.data), tuple(rows), tuple(notes))


def search_table(search: Search, trials: Sequence[Trial]) -> Table:
    """The trials of a search, the best first."""
    rows = []
    for trial in trials:
        values = [f"{value:.3g}" if isinstance(value, float) else str(value) for value in trial.point.values()]
        top1 = MISSING if trial.top1 is None else f"{100 * trial.top1:.2f}"
        rows.append((trial.directory.name.split("-")[0], *values, top1, trial.state))
    note = f"Seed {search.seed} alone; run the best with other seeds before you rely on it. Test images took no part."
    return Table(f"{search.name}: trials", ("trial", *search.space, "validation top-1, %", "state"), tuple(rows), (note,))


# files --------------------------------------------------------------------------------------------------------------------


def to_markdown(comparison: Comparison, tables: Sequence[Table]) -> str:
    """All tables as one page, with what is missing from them."""
    parts = [f"# {comparison.study.name}\n", *(table.to_markdown() for table in tables)]
    if comparison.failed:
        lines = [f"- {job}: {job.failure} (log: {job.log})" for job in comparison.failed]
        parts.append("## Failed runs\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def to_latex(tables: Sequence[Table]) -> str:
    """All tables, one after the other."""
    return r"% \usepackage{booktabs}" + "\n" + "\n".join(table.to_latex() for table in tables)


def to_csv(comparison: Comparison) -> str:
    """A row per method and column (data set, group, mean over all); accuracies 0..1."""
    rows = []
    for method in comparison.study.methods:
        for column, members in comparison.study.columns.items():
            scores, difference = comparison.top1(method, column), comparison.difference(method, column)
            rival = comparison.best_rival(method, column)
            to_rival = None if rival is None else comparison.paired(method, rival, column)
            row: dict[str, Any] = {
                "method": method,
                "data": column,
                "n_seeds": scores.n if scores else 0,
                "top1_mean": scores and scores.mean,
                "top1_std": scores and scores.std,
                "top1_low": scores and scores.interval and scores.interval[0],
                "top1_high": scores and scores.interval and scores.interval[1],
                "difference_mean": difference and difference.mean,
                "difference_low": difference and difference.low,
                "difference_high": difference and difference.high,
                "rival": rival,
                "rival_difference_mean": to_rival and to_rival.mean,
                "rival_difference_low": to_rival and to_rival.low,
                "rival_difference_high": to_rival and to_rival.high,
            }
            row |= _facts(comparison.findings[column, method]) if members == (column,) else {}
            rows.append(row)
    return _csv(rows)


def to_runs_csv(comparison: Comparison) -> str:
    """A row per run that counts."""
    keys = ("top1", "top5", "selection_top1", "epoch_chosen", "epochs", "trainable_parameters", "training_seconds")
    rows = []
    for finding in comparison.findings.values():
        for seed, result in finding.results.items():
            run = {"method": finding.cell.method, "data": finding.cell.data, "lr": finding.lr, "seed": seed}
            rows.append({**run, **{key: getattr(result, key) for key in keys}, "run": str(finding.jobs[seed].directory)})
    return _csv(rows)


def _facts(finding: Finding) -> dict[str, Any]:
    return {
        "trainable_parameters": finding.mean("trainable_parameters"),
        "trainable_parameters_without_head": finding.mean("trainable_parameters_without_head"),
        "seconds_per_epoch": finding.seconds_per_epoch,
        "peak_memory_mb": finding.mean("peak_memory_mb"),
        "lr": finding.lr,
        "lr_candidates": " ".join(f"{lr:g}" for lr in finding.cell.candidates),
        "protocol": finding.cell.config.protocol,
    }


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    buffer = io.StringIO()
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(buffer, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: "" if value is None else value for name, value in row.items()} for row in rows)
    return buffer.getvalue()


# cells --------------------------------------------------------------------------------------------------------------------


def _spread(value: Spread | None, seeds: int) -> str:
    if value is None:
        return MISSING
    fewer = f" (n={value.n})" if value.n < seeds else ""
    return f"{value.mean:.2%}".rstrip("%") + (f" ± {value.std:.2%}".rstrip("%") if value.std is not None else "") + fewer


def _mean(value: Spread | None, seeds: int) -> str:
    if value is None:
        return MISSING
    fewer = f" (n={value.n})" if value.n < seeds else ""
    interval = "" if value.interval is None else " [{:.2f}, {:.2f}]".format(*(100 * end for end in value.interval))
    return f"{100 * value.mean:.2f}{interval}{fewer}"


def _lowest(comparison: Comparison, method: str) -> str:
    """Where a method is furthest behind the reference."""
    differences = {data: comparison.difference(method, data) for data in comparison.study.data}
    means = {data: difference.mean for data, difference in differences.items() if difference is not None}
    if not means:
        return MISSING
    lowest = min(means, key=means.__getitem__)
    return f"{_points(means[lowest])} ({lowest})"


def _difference(value: Difference | None) -> str:
    if value is None:
        return MISSING
    interval = "" if value.low is None or value.high is None else f" [{_points(value.low)}, {_points(value.high)}]"
    return _points(value.mean) + interval


def _points(share: float) -> str:
    return f"{100 * share:+.2f}"


def _number(value: float | None, form: str) -> str:
    return MISSING if value is None else form.format(value)


def _range(values: Sequence[float | None]) -> str:
    """A count, or lowest to highest where the data sets differ, as in the size of the head."""
    known = sorted({round(value) for value in values if value is not None})
    if not known:
        return MISSING
    return f"{known[0]:,}" if len(known) == 1 else f"{known[0]:,} to {known[-1]:,}"


def _choice(finding: Finding) -> str:
    if len(finding.cell.candidates) == 1:
        return f"{finding.cell.candidates[0]:g}"
    return ", ".join(map(_candidate(finding), finding.cell.candidates))


def _candidate(finding: Finding) -> Callable[[float], str]:
    def text(lr: float) -> str:
        if lr not in finding.validation:
            return f"{lr:g} (?)"
        value = finding.validation[lr]
        shown = "{:.3f}" if finding.by_loss else "{:.1%}"
        score = "diverged or failed" if value is None else shown.format(value).rstrip("%")
        if lr != finding.lr:
            return f"{lr:g} ({score})"
        return f"**{lr:g}**{'*' if finding.at_edge else ''} ({score})"

    return text


def _protocols(comparison: Comparison) -> list[str]:
    """How the scores were made, once where all runs agree, else by data set."""
    by_data: dict[str, set[str]] = {}
    for finding in comparison.findings.values():
        by_data.setdefault(finding.cell.data, set()).update(result.how_chosen for result in finding.results.values())
    texts = {name: "; or ".join(sorted(found)) for name, found in by_data.items() if found}
    if len(set(texts.values())) == 1:
        return [f"Epoch: {next(iter(texts.values()))}."]
    return [f"Epoch, {name}: {text}." for name, text in texts.items()]


def _machine(comparison: Comparison) -> str:
    machines = sorted({f"{r.device}, {r.precision}, threads: {r.threads or '?'}" for r in comparison.results})
    return (
        f"Per run: {'; '.join(machines) or 'nothing has run'}. An epoch is training and validation, median over all epochs; "
        "memory is the highest of the data sets, on a CPU of the whole process with its libraries."
    )
