"""``svp predict``, and what it shares with ``svp eval``: names of all kinds, one process that prints."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from pathlib import Path

import pytest

from svp.cli import main
from tests.commands.conftest import FAST
from tests.training.conftest import write_photos


def test_predict_formats(run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["predict", str(run), str(photos / "blue"), str(photos / "green" / "00.jpg"), "--topk", "2", "--device", "cpu"]
    assert main([*words, "--format", "json"]) == 0
    predictions = json.loads(capsys.readouterr().out)
    assert len(predictions) == 15
    assert all(len(p["classes"]) == len(p["probabilities"]) == 2 and p["error"] is None for p in predictions)
    assert main([*words, "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["class_1"] for row in rows] == [p["classes"][0] for p in predictions]
    assert main(words) == 0
    assert str(photos / "green" / "00.jpg") in capsys.readouterr().out
    assert main([*words, "--format", "json", "--out", str(tmp_path / "p.json")]) == 0
    assert json.loads((tmp_path / "p.json").read_text()) == predictions
    assert main([*words, "--out", str(tmp_path / "no" / "p.json")]) == 2


def test_predict_reports_unreadable_files_and_does_the_rest(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "good.jpg").write_bytes((photos / "blue" / "00.jpg").read_bytes())
    (tmp_path / "deep" / "bad.jpg").write_text("not an image")
    assert main(["predict", str(run), str(tmp_path / "deep"), "--format", "json", "--device", "cpu"]) == 1
    captured = capsys.readouterr()
    by_name = {Path(p["path"]).name: p for p in json.loads(captured.out)}
    assert by_name["bad.jpg"]["error"]
    assert by_name["bad.jpg"]["classes"] == []
    assert by_name["good.jpg"]["classes"]
    assert "bad.jpg" in captured.err


@pytest.mark.parametrize("rank", ["0", "1"])
def test_only_the_first_process_prints_and_writes(
    run: Path, photos: Path, tmp_path: Path, rank: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", rank)
    out = tmp_path / "p.csv"
    assert main(["eval", str(run), "--device", "cpu"]) == 0
    assert main(["predict", str(run), str(photos / "blue"), "--device", "cpu", "--out", str(out)]) == 0
    assert out.exists() == bool(capsys.readouterr().out) == (rank == "0")


def test_predict_checks_out_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in (".", "pipe"):
        assert main(["predict", "no-run", "no-image", "--out", str(tmp_path / name)]) == 2
        assert "no ordinary file" in capsys.readouterr().err


def test_odd_names_come_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Spaces, markup, emoji codes, other scripts, and bytes that are no text."""
    photos = write_photos(tmp_path / "my [bold]photos[/b] ü")
    names = ("cat [big]", ":dog: grün", "猫 [red]")
    for old, new in zip(("amber", "blue", "green"), names, strict=True):
        (photos / old).rename(photos / new)
    run, new = tmp_path / "a run [/b]", tmp_path / "new :dog:"
    (new / "a[").mkdir(parents=True)  # so that a path reads like a closing tag
    odd = new / os.fsdecode(b"a[/b] \xff.jpg")
    shutil.copy(photos / names[0] / "00.jpg", odd)
    (new / "a[" / "bad].jpg").write_text("x")
    assert main(["train", "--data", str(photos), *FAST, "--method", "linear", "--out", str(run)]) == 0
    text = capfd.readouterr().out
    assert all(name in text for name in (*names, str(run)))
    assert main(["eval", str(run), "--device", "cpu"]) == 0
    text = capfd.readouterr().out
    assert all(name in text for name in (*names, str(run)))

    monkeypatch.setenv("FORCE_COLOR", "1")
    words = ["predict", str(run), str(new), "--device", "cpu"]
    for form in ("table", "csv", "json"):
        out = tmp_path / f"p [b].{form}"
        assert main([*words, "--format", form, "--out", str(out)]) == 1
        assert str(out) in capfd.readouterr().out
        text = out.read_text(encoding="utf-8")
        assert "a[/b] \\udcff.jpg" in text
        assert "\x1b" not in text
        if form == "json":
            assert set(json.loads(text)[0]["classes"]) == set(names)
        else:
            assert all(name in text for name in names)
    assert main(words) == 1
    captured = capfd.readouterr()
    assert "a[/b] \\udcff.jpg" in captured.out
    assert "a[/bad].jpg" in captured.err
