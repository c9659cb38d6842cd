"""Run directories of version 0.1.0 load, and its unfinished runs go on.

Both runs below ``release_0_1_0/`` were made by version 0.1.0: ``svp.train`` on ``write_photos(PHOTOS, per_class=6)`` with
``model="vim_nano", img_size=16, method="linear", lr=0.01, batch_size=4, epochs=2, device="cpu"``; the second was stopped
after its first epoch. PHOTOS and RUN stand for the folders.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import svp
from svp.cli import main
from svp.runs import RunDirectory
from tests.training.conftest import write_photos

STORED = Path(__file__).parent / "release_0_1_0"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Copies of both runs, whose images are there."""
    photos = write_photos(tmp_path / "photos", per_class=6)
    folder = Path(shutil.copytree(STORED, tmp_path / "runs"))
    for file in folder.rglob("*"):
        if file.suffix in (".yaml", ".json"):
            text = file.read_text(encoding="utf-8").replace("PHOTOS", photos.as_posix())
            file.write_text(text.replace("RUN", file.parent.as_posix()), encoding="utf-8")
    return folder


def test_a_finished_run_loads(runs: Path) -> None:
    trained = svp.open_run(runs / "whole", "cpu")
    result, rows = trained.result, RunDirectory(runs / "whole").read_metrics()
    assert result is not None
    assert trained.info.backbone.name == "vim_nano_patch4_32.tiny_in200"
    assert trained.class_names == ("amber", "blue", "green")
    assert trained.how_chosen == result.how_chosen
    assert result.method == "linear"
    assert result.validation_seconds is rows[0].training_seconds is None
    assert result.training_seconds == sum(row.seconds for row in rows)
    scores = svp.evaluate(runs / "whole", device="cpu")
    assert (scores.top1, scores.n_test) == (result.top1, result.n_test)
    assert scores.loss == pytest.approx(result.loss, rel=1e-3)
    assert scores.per_class.keys() == result.per_class.keys()


def test_a_stopped_run_goes_on(runs: Path) -> None:
    stopped = runs / "stopped"
    assert svp.open_run(stopped, "cpu").how_chosen == "unfinished run, best of 1 epochs so far"
    before = RunDirectory(stopped).read_metrics()
    assert main(["train", "--out", str(stopped), "--resume"]) == 0
    rows = RunDirectory(stopped).read_metrics()
    assert rows[:1] == before
    assert [row.validation_seconds is None for row in rows] == [True, False]
    result = RunDirectory(stopped).read_result()
    assert result.epochs == 2
    assert result.model == "vim_nano_patch4_32.tiny_in200", "the weights that it began with"
    assert result.validation_seconds is None
