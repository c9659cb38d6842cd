"""The page in a real browser: what a visitor sees, what it costs no one else."""

from __future__ import annotations

import csv
import re
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from svp.app import Server, Workbench
from svp.models.vim import default_cfgs
from tests.app.conftest import SMALL, make_adapters
from tests.browser import Browser

if find_spec("gradio") is None:  # one that is there and cannot be imported is a failure
    pytest.skip("gradio is not installed: pip install 'vim-svp[app]'", allow_module_level=True)

NANO = replace(SMALL, weights="published", overrides={}, seed=None)


@pytest.fixture(scope="module")
def server(browser: Browser, tmp_path_factory: pytest.TempPathFactory, images: list[Path]) -> Iterator[Server]:
    runs = make_adapters(tmp_path_factory.mktemp("nano"), NANO, ["svp", "linear"])
    running = Server(Workbench(runs, "cpu"), images[0].parent, port=0)
    yield running
    running.close()


@pytest.fixture
def page(server: Server, browser: Browser) -> Browser:
    browser.open(server.url)
    browser.find("#samples .thumbnail-item")
    return browser


def top5(page: Browser, kind: str) -> list[tuple[str, int]]:
    """Class, and percent, of each bar."""
    rows = [row.text.split("\n") for row in page.all(f".{kind} .confidence-set")]
    return [(row[0], int(row[-1].rstrip("%"))) for row in rows]


def figure(page: Browser) -> str:
    """Address of the gates' figure, once it is there in full."""
    return page.wait(
        lambda: page.run(
            "const i = document.querySelector('#gates img'); return i && i.complete && i.naturalWidth > 800 ? i.src : ''"
        )
    )


def pick(page: Browser, number: int) -> None:
    page.all("#samples .thumbnail-item")[number].click()


def another_figure(page: Browser, before: str) -> str:
    return page.wait(lambda: (now := figure(page)) != before and now)


def test_a_sample_is_classified_and_its_gates_are_drawn(page: Browser, server: Server, tmp_path: Path) -> None:
    pick(page, 2)
    tuned, base = (page.wait(lambda kind=kind: len(found := top5(page, kind)) == 5 and found) for kind in ("tuned", "base"))
    assert {name for name, _ in tuned} <= {"amber", "blue", "green", "grey", "pink", "red"}
    assert {name for name, _ in base} <= set(default_cfgs["vim_nano_patch4_32"].default.label_names)
    assert [percent for _, percent in tuned] == sorted((percent for _, percent in tuned), reverse=True)
    widths = [bar.size["width"] for bar in page.all(".tuned .bar")]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > 0
    first = figure(page)
    page.screenshot(tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as screenshot:
        assert screenshot.height > 1000
    page.find("label", "linear").click()
    second = another_figure(page, first)
    assert page.wait(lambda: len(found := top5(page, "tuned")) == 5 and found != tuned)
    assert top5(page, "base") == base
    page.find("label", "last to first token").click()
    third = another_figure(page, second)
    slider = page.find("input[type=range]")
    assert page.run("return document.querySelector('input[type=checkbox]').checked")
    slider.send_keys("\ue014" * 3)  # arrow to the right
    another_figure(page, third)
    page.wait(lambda: not page.run("return document.querySelector('input[type=checkbox]').checked"))
    assert page.errors() == []
    strangers = [url for url in page.requests() if not url.startswith(server.url)]
    assert strangers == []


@pytest.mark.exhaustive
def test_a_file_that_is_no_image_is_told_and_clears_what_was_said(page: Browser, tmp_path: Path) -> None:
    pick(page, 0)
    page.wait(lambda: len(top5(page, "tuned")) == 5)
    paper = tmp_path / "paper.jpg"
    paper.write_bytes(b"%PDF-1.4 ...")
    page.find("#image button[aria-label*=emove]").click()
    page.hand_in("#image input[type=file]", paper)
    message = page.wait(lambda: next((e.text for e in page.all(".toast-body") if e.text), ""))
    assert message.count("a PDF document") == 1
    page.wait(lambda: not top5(page, "tuned"))


@pytest.mark.exhaustive
def test_a_zip_becomes_a_table_and_a_csv(page: Browser, images: list[Path], tmp_path: Path) -> None:
    archive = tmp_path / "photos.zip"
    with zipfile.ZipFile(archive, "w") as members:
        for image in images[:4]:
            members.write(image, f"holiday/{image.name}")
        members.writestr("holiday/paper.jpg", b"%PDF-1.4 ...")
    page.find("button[role=tab]", "Many images").click()
    page.find("#zip")
    page.hand_in("#zip input[type=file]", archive)
    page.wait(lambda: "photos" in page.find("#zip").text)
    page.find("button", "Classify").click()
    text = page.wait(lambda: (shown := page.find("#table").text) and "paper.jpg" in shown and shown)
    assert re.search(r"holiday/00\.png\s+(amber|blue|green|grey|pink|red) \d+\.\d%", text)
    assert "a PDF document" in text
    folder = tmp_path / "downloads"
    folder.mkdir()
    page.driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})
    page.wait(lambda: page.find("#csv").is_enabled())
    page.find("#csv").click()
    file = page.wait(lambda: next(folder.glob("*.csv"), None))
    rows = list(csv.reader(file.read_text(encoding="utf-8").splitlines()))
    assert rows[0][:3] == ["path", "class_1", "probability_1"]
    assert [row[0] for row in rows[1:]] == [*(f"holiday/0{n}.png" for n in range(4)), "holiday/paper.jpg"]
    assert page.errors() == []


@pytest.mark.exhaustive
def test_a_folder_keeps_its_names(page: Browser, images: list[Path]) -> None:
    page.find("button[role=tab]", "Many images").click()
    page.find("#folder")
    page.hand_in("#folder input[type=file]", images[0].parent)
    page.wait(lambda: "20.png" in (shown := page.find("#folder").text) or "19" in shown)
    page.find("button", "Classify").click()
    assert page.wait(lambda: (shown := page.find("#table").text) and "00.png" in shown and shown)


@pytest.mark.exhaustive
def test_everything_that_takes_input_has_a_name(page: Browser) -> None:
    """For those who hear the page."""
    nameless = page.run(
        """
        const named = e => e.labels?.length || e.ariaLabel || e.getAttribute("aria-labelledby") || e.title || e.placeholder
            || e.innerText?.trim() || e.querySelector("img[alt]");
        return [...document.querySelectorAll("input:not([type=file]), button, select, textarea")]
            .filter(e => e.checkVisibility() && !named(e)).map(e => e.outerHTML.slice(0, 200));
        """
    )
    assert nameless == []
    assert page.run("return document.documentElement.lang") == "en"
    assert "vim_nano" in page.driver.title
