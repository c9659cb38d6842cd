"""Put the tables and figures of studies into docs/results.md, as far as their runs have got.

    svp study compare benchmarks/methods_on_seven_tasks.yaml --workers 2
    svp study compare benchmarks/defaults_on_seven_tasks.yaml --workers 2
    python -m benchmarks.results_page runs/methods_on_seven_tasks runs/defaults_on_seven_tasks

What stands in the page between "<!-- NAME -->" and "<!-- end of NAME -->" becomes the tables of the study of that name; its
figure of means is docs/results_NAME.png. The sentences around are written by hand: read them again.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

from svp.studies import Comparison, read_folder
from svp.studies.figures import write_figures
from svp.studies.tables import Table, accuracy_table, summary_table

PAGE = Path(__file__).parents[1] / "docs" / "results.md"


def fill(page: Path, folder: Path) -> None:
    """Put the tables of the study in `folder` into the page, and its figure beside it.

    Raises:
        ValueError: The page has no place for a study of this name.
    """
    comparison = read_folder(folder)
    name = comparison.study.name
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    text = page.read_text(encoding="utf-8")
    if begin not in text or end not in text:
        raise ValueError(f"{page} has no place for {name}: it would stand between {begin.strip()} and {end}")
    before, rest = text.split(begin)
    page.write_text(before + begin + body(comparison, page) + end + rest.split(end)[1], encoding="utf-8")


def body(comparison: Comparison, page: Path) -> str:
    """The figure, if there are results, and the tables."""
    study, parts = comparison.study, []
    figures = write_figures(comparison)
    if "summary" in figures:
        file = page.with_name(f"results_{study.name}.png")
        shutil.copyfile(figures["summary"][0], file)
        parts.append(f"![Mean test top-1 of every method of {study.name}, with its interval]({file.name})")
    tables = [summary_table(comparison), replace(accuracy_table(comparison), notes=())]
    if any(len(finding.cell.candidates) > 1 for finding in comparison.findings.values()):
        tables.append(chosen_rates(comparison))
    done, planned = len(comparison.results), len(comparison.findings) * len(study.seeds)
    if done < planned:
        parts.append(f"{done} of {planned} runs that count are finished.")
    return "\n" + "\n\n".join([*parts, *map(_titled, tables)]) + "\n\n"


def chosen_rates(comparison: Comparison) -> Table:
    """The learning rate of every method on every task; tables.md of the study has the candidates."""
    study = comparison.study
    found = {method: [comparison.findings[data, method] for data in study.data] for method in study.methods}
    rows = [
        (method, *(f"{one.lr:g}{'*' if one.at_edge else ''}" if one.lr is not None else "-" for one in cells))
        for method, cells in found.items()
    ]
    note = "\\* The lowest or highest of its candidates: a better one may lie beyond."
    starred = any(one.at_edge for cells in found.values() for one in cells)
    return Table("Learning rates that were chosen", ("method", *study.data), tuple(rows), (note,) if starred else ())


def _titled(table: Table) -> str:
    """With its title as a sentence: a heading of its own for each would fill the list of contents."""
    _, _, rest = table.to_markdown().partition("\n\n")
    return f"**{table.title}**\n\n{rest.strip()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("studies", nargs="+", type=Path, help="folders of the studies")
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args()
    for folder in arguments.studies:
        fill(arguments.page, folder)
        print(f"{arguments.page}: {folder}")


if __name__ == "__main__":
    main()
