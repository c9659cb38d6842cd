"""``svp eval``."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from svp.cli import main
from svp.commands.eval import _print_scores
from svp.runs import ClassScore, Evaluation
from svp.tasks import SingleLabel
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
            metrics=dict.fromkeys(SingleLabel.metrics, 0.25) | {"auroc": None},
        )
    )
    text = capsys.readouterr().out
    assert "by lot" in text
    assert "r[/b] on d" in text
    assert "cat [big]" in text
    assert re.search(r"macro F1 .* 25.00%", text)
    assert re.search(r"AUROC .* -", text)
    assert "50.00% [9.5%, 90.5%]" in text


def test_of_a_thousand_classes_the_worst_and_best_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {f"class{number:03}": ClassScore(accuracy=number / 1000 if number else None, n=3) for number in range(1000)}
    metrics = dict.fromkeys(SingleLabel.metrics, 0.5)
    _print_scores(Evaluation("r", "d", None, 0.5, 0.5, 1.0, 3000, (), rows, metrics, trained_on=7))
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) < 60
    assert "the 15 worst and the 15 best classes; --json lists the other 970" in shown
    listed = re.findall(r"class(\d+)", shown)
    assert [int(number) for number in listed] == [*range(1, 16), *range(985, 1000)]
    assert "warning: 7 of the 3,000 images were trained on: the scores are too good" in shown
