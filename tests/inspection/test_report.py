"""The page of a run: what `svp train` leaves, what `svp inspect` adds, and how it looks in a browser."""

from __future__ import annotations

import json
import webbrowser
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from svp.cli import main
from svp.commands.inspect import show
from svp.inputs import InputConfig
from svp.inspection.page import Page
from svp.inspection.report import add_outcome, write_report
from svp.plotting import style
from svp.runs import RunDirectory
from svp.runs.answers import Answers
from tests.browser import open_browser
from tests.training.conftest import write_photos

SETTINGS = ["--model", "test_vim", "--weights", "random", "--img-size", "16", "--epochs", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, drawing: Callable[[], AbstractContextManager[None]]) -> Path:
    place = tmp_path_factory.mktemp("report")
    photos = write_photos(place / "photos")
    with drawing():
        assert main(["train", "--data", str(photos), "--out", str(place / "run"), *SETTINGS]) == 0
    return place / "run"


def test_a_run_ends_with_its_page(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (run / "inspection" / "index.html").read_text(encoding="utf-8")
    result = RunDirectory(run).read_result()
    for told in (
        *result.advice,
        "SVP on test_vim: photos",
        f"{result.top1:.1%}",
        "stratified, seed 0",
        "trained on",
    ):
        assert told in page, told
    assert "http" not in page
    assert "amber" in page
    numbers = json.loads((run / "inspection" / "numbers.json").read_text())
    assert numbers["top1"] == result.top1
    assert {name: score["n"] for name, score in numbers["per_class"].items()} == {"amber": 2, "blue": 2, "green": 2}
    wrong = round(6 * (1 - result.top1))
    assert page.count('src="data:image/jpeg;') == len(numbers["mistakes"]) == wrong > 0
    for photo in map(Path, numbers["mistakes"]):
        assert photo.name in page
    # what was tried after the run keeps no answers
    (run / "test_predictions.csv").rename(run / "kept.csv")
    assert write_report(run) is None
    (run / "kept.csv").rename(run / "test_predictions.csv")


def test_inspect_says_the_same_and_opens_it(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert main(["inspect", str(run), "--out", str(tmp_path), "--images", "2", "--device", "cpu"]) == 0
    assert opened == [(tmp_path / "index.html").resolve().as_uri()]
    light, full = (json.loads((folder / "numbers.json").read_text()) for folder in (run / "inspection", tmp_path))
    for name in ("top1", "confusion", "per_class", "mistakes"):
        assert full[name] == light[name]
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert all(sentence in page for sentence in RunDirectory(run).read_result().advice)
    show(tmp_path / "index.html", opens=False)
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    show(tmp_path / "index.html", opens=True)
    assert len(opened) == 1


def test_nothing_leaves_the_window(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    Image.new("RGB", (30, 20), "red").save(tmp_path / "photo.png")
    pages = {}
    for classes in (2, 200):
        names = [f"European_fire_salamander_(Salamandra_salamandra)_{n}" for n in range(classes)]
        labels, guesses = generator.integers(0, classes, (2, 400))
        answers = Answers(labels, guesses, generator.random(400), names, [tmp_path / "photo.png"] * 400)
        page = Page(tmp_path / str(classes), "SVP on vim_tiny_patch16_224", ["/a/path"])
        with style():
            add_outcome(page, answers, InputConfig(), RunDirectory(tmp_path), own=True)
        pages[classes] = page.write()
    with open_browser() as browser:
        for classes, index in pages.items():
            for width in (1280, 500):
                browser.driver.set_window_size(width, 900)
                browser.open(index.as_uri())
                assert browser.run("return document.documentElement.scrollWidth <= window.innerWidth")
                assert browser.run("return [...document.images].every(image => image.alt)")
                assert browser.run("return document.querySelectorAll('.sheet img').length") == 24
                assert browser.run("return document.querySelectorAll('.classes tbody tr').length") == classes
            browser.find("th button", "recall").click()
            cells = browser.run("return [...document.querySelectorAll('.classes td:nth-child(3)')].map(x => x.textContent)")
            shown = [float(cell.strip("%")) for cell in cells if cell.strip("%")[0].isdigit()]
            assert shown == sorted(shown, reverse=True)
            assert browser.errors() == []
            assert browser.requests() == [index.as_uri()]
