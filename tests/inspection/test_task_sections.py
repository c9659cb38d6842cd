"""`svp inspect` and `svp gates` of several labels and of numbers."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest

from svp.data import ImageListDataset, eval_transform, make_loader
from svp.errors import InputError
from svp.inspection.data_check import check_with_model
from svp.inspection.page import Page
from svp.inspection.predictions import record_predictions
from svp.inspection.runs import inspect_run, open_runs, show_gates
from svp.inspection.task_sections import add_answers
from svp.plotting import style
from svp.runs import RunDirectory, open_run


@pytest.mark.parametrize(
    ("kind", "figure", "title"),
    [("multi", "average-precision", "How well each label is said"), ("regression", "scatter", "Largest errors")],
)
def test_sections_say_how_good_the_answers_are(task_runs: Path, kind: str, figure: str, title: str, tmp_path: Path) -> None:
    trained = open_run(task_runs / kind, "cpu")
    split = RunDirectory(task_runs / kind).read_split("test")
    dataset = ImageListDataset(split, eval_transform(trained.inputs))
    batches = ((images, targets) for images, targets, _ in make_loader(dataset, 8, train=False))
    predicted = record_predictions(trained.model, batches, trained.info.task)
    page = Page(tmp_path, "answers", [])
    with style():
        add_answers(page, predicted, trained, split.paths, [], own=True)
    text = page.write().read_text()
    assert (tmp_path / f"{figure}.pdf").is_file()
    assert title in text
    result = json.loads((task_runs / kind / "result.json").read_text())
    assert result["advice"][0] in html.unescape(text)
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers["metrics"] == pytest.approx(result["metrics"], rel=1e-4)


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", ["multi", "regression"])
def test_the_page_is_whole(task_runs: Path, kind: str, tmp_path: Path) -> None:
    text = inspect_run(task_runs / kind, out=tmp_path, device="cpu").read_text()
    assert {"activation-both.png", "features.png", "curves.png"} <= {file.name for file in tmp_path.iterdir()}
    assert "confusion" not in text.lower()


@pytest.mark.exhaustive
def test_gates_say_the_answer(task_runs: Path, tmp_path: Path) -> None:
    image = next((task_runs / "photos" / "blue").iterdir())
    page = show_gates(task_runs / "regression", [image], out=tmp_path, device="cpu").read_text()
    assert re.search(r" says \d+", page)


def test_runs_of_two_tasks_are_not_compared(task_runs: Path) -> None:
    with pytest.raises(InputError, match="runs of different tasks cannot be compared"):
        open_runs(task_runs / "multi", [task_runs / "regression"], "cpu")


def test_labels_are_doubted_by_models_of_classes_alone(task_runs: Path) -> None:
    with pytest.raises(InputError, match="says a number per image; labels are doubted by a model of one class per image"):
        check_with_model(str(task_runs / "photos"), task_runs / "regression", device="cpu")
