"""The page of a study in a real browser, from a file: it opens, sorts and unfolds without anything else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from svp.studies import Study, write_report
from tests.browser import Browser
from tests.studies.test_outcome import pretend, study  # noqa: F401  the fixture

SETTINGS = "model: vim_nano  # <script>alert('from a file')</script>\n"
LOG = "epoch 1 <b>of</b> 2\n" + "x" * 300 + "\nlast line"


@dataclass(frozen=True)
class Opened:
    """The page, opened, and the names of the study's runs."""

    browser: Browser
    url: str
    runs: list[str]


@pytest.fixture
def page(browser: Browser, study: Study, tmp_path: Path) -> Iterator[Opened]:  # noqa: F811
    comparison = pretend(study, tmp_path / "study")
    for job in comparison.jobs:
        (job.directory / "config.yaml").write_text(SETTINGS)
        job.log.parent.mkdir(parents=True, exist_ok=True)
        job.log.write_text(LOG)
    url = write_report(tmp_path / "study").as_uri()
    browser.open(url)
    yield Opened(browser, url, [str(job) for job in comparison.jobs])
    assert browser.errors() == []
    assert browser.requests() == [url]  # itself, and nothing else


def column(page: Browser, table: int, number: int) -> list[str]:
    rows = "[...document.querySelectorAll('table')[arguments[0]].tBodies[0].rows]"
    return page.run(f"return {rows}.map(row => row.cells[arguments[1]].textContent)", table, number)


def test_tables_sort_on_a_click(page: Opened) -> None:
    tables = page.browser.all("table")
    assert tables
    sorted_both_ways = 0
    for number, table in enumerate(tables):
        heads = table.find_elements("css selector", "thead button")
        for place, head in enumerate(heads):
            kind, other = ("ascending", "descending") if place == 0 else ("descending", "ascending")
            head.click()
            assert aria(page.browser, number) == [kind if n == place else None for n in range(len(heads))]
            first = column(page.browser, number, place)
            assert first == in_order(first, place, kind)
            head.click()
            assert aria(page.browser, number)[place] == other
            second = column(page.browser, number, place)
            assert second == in_order(second, place, other)
            assert sorted(second) == sorted(first)
            sorted_both_ways += first != second
    assert sorted_both_ways > 3


def aria(page: Browser, table: int) -> list[str | None]:
    heads = "[...document.querySelectorAll('table')[arguments[0]].tHead.rows[0].cells]"
    return page.run(f"return {heads}.map(head => head.getAttribute('aria-sort'))", table)


def in_order(cells: list[str], place: int, kind: str) -> list[str]:
    """Sorted by their first number, those without at the end; the first column by its text."""

    def number(cell: str) -> float | None:
        start = cell.replace(",", "").replace("−", "-").split()  # noqa: RUF001
        try:
            return float(start[0].rstrip("%")) if start and place else None
        except ValueError:
            return None

    with_number = [cell for cell in cells if number(cell) is not None]
    texts = [cell for cell in cells if number(cell) is None]
    down = kind == "descending"
    key: Any = number
    return sorted(with_number, key=key, reverse=down) + sorted(texts, key=str.lower, reverse=down)


@pytest.mark.exhaustive
def test_figures_are_shown(page: Opened) -> None:
    figures = page.browser.run(
        "return [...document.images].map(i => [i.alt, i.complete && i.naturalWidth, i.src.slice(0, 22), i.clientWidth])"
    )
    assert figures
    for name, width, source, shown in figures:
        assert name
        assert width > 300
        assert shown > 300
        assert source == "data:image/png;base64,"


def test_every_run_unfolds_to_its_command_settings_and_log(page: Opened) -> None:
    summaries = page.browser.all("summary")
    assert len(summaries) == len(page.runs)
    for name, summary in zip(page.runs, summaries, strict=True):
        assert name in summary.text
        summary.click()
        blocks = summary.find_element("xpath", "..").find_elements("css selector", "pre")
        command, settings, log = (block.text for block in blocks)
        assert all(block.is_displayed() for block in blocks)
        assert command.startswith("svp train --config ")
        assert settings == SETTINGS.strip()  # as text: a file's markup is not the page's
        assert log == LOG
        summary.click()
        assert not any(block.is_displayed() for block in blocks)


@pytest.mark.exhaustive
def test_nothing_is_wider_than_the_screen(page: Opened) -> None:
    for width in (1280, 420):
        page.browser.driver.set_window_size(width, 900)
        assert page.browser.run("return document.documentElement.scrollWidth <= window.innerWidth")
