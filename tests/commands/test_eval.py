"""``svp eval``."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from svp.cli import main
from svp.commands.eval import _print_scores
from svp.runs import ClassScore, Evaluation
from svp.runs.result import METRICS
from tests.training.conftest import write_photos


def test_eval(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(run), "--json", "--device", "cpu"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["top1"] == json.loads((run / "result.json").read_text())["top1"]
    assert main(["eval", str(run), "--device", "cpu"]) == 0
    assert "green" in capsys.readouterr().out


def test_eval_on_other_classes_says_which(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = write_photos(tmp_path / "other", per_class=2)
    (other / "green").rename(other / "violet")
    assert main(["eval", str(run), "--data", str(other)]) == 1
    error = capsys.readouterr().err
    assert "violet" in error
    assert "green" in error


def test_eval_says_how_the_epoch_was_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {"cat [big]": ClassScore(accuracy=0.5, n=2)}
    _print_scores(
        Evaluation(
            run="r[/b]",
            data="d",
            how_chosen="by lot",
            top1=0.5,
            top5=1.0,
            loss=0.7,
            n_test=2,
            unreadable_test_images=(),
            per_class=rows,
            metrics=dict.fromkeys(METRICS, 0.25) | {"auroc": None},
        )
    )
    text = capsys.readouterr().out
    assert "by lot" in text
    assert "r[/b] on d" in text
    assert "cat [big]" in text
    assert re.search(r"macro F1 .* 25.00%", text)
    assert re.search(r"AUROC .* -", text)
    assert "50.00% [9.5%, 90.5%]" in text
