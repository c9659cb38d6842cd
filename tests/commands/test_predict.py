"""``svp predict``: forms of the output, stops and shares, names of all kinds; and names in ``svp eval``."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from svp.cli import main
from tests.commands.conftest import FAST
from tests.processes import Python, torchrun
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
    assert main([*words, "--format", "jsonl"]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == predictions
    assert main([*words, "--out", str(tmp_path / "p.json")]) == 0  # the suffix names the form
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


def read_rows(target: Path) -> list[dict[str, Any]]:
    if target.suffix == ".csv":
        with target.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    if target.suffix == ".jsonl":
        return [json.loads(line) for line in target.read_text().splitlines()]
    import pyarrow.parquet

    rows: list[dict[str, Any]] = pyarrow.parquet.read_table(target).to_pylist()
    return rows


def link_photos(photos: Path, folder: Path, count: int) -> None:
    """Many images that take no room."""
    folder.mkdir()
    for number in range(count):
        os.link(photos / "blue" / f"{number % 14:02d}.jpg", folder / f"{number:04d}.jpg")


@pytest.mark.parametrize(
    ("suffix", "stop"),
    [
        ("csv", signal.SIGKILL),
        ("parquet", signal.SIGINT),
        pytest.param("parquet", signal.SIGKILL, marks=pytest.mark.exhaustive),
        pytest.param("jsonl", signal.SIGINT, marks=pytest.mark.exhaustive),
    ],
)
def test_what_was_done_stays_and_resume_goes_on(
    run: Path, photos: Path, tmp_path: Path, suffix: str, stop: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    link_photos(photos, tmp_path / "new", 2000)
    out = tmp_path / f"p.{suffix}"
    words = ["predict", str(run), str(tmp_path / "new"), "--device", "cpu", "--batch-size", "4", "--out", str(out)]
    called = Python(["-m", "svp", *words], tmp_path / "shown")
    while not (list(out.glob("part-*")) if suffix == "parquet" else out.exists() and out.stat().st_size > 1000):
        assert called.poll() is None, called.errors
        time.sleep(0.01)
    called.send_signal(stop)
    code = called.wait()
    if stop == signal.SIGINT:
        assert code == 130
        assert f"--resume goes on with {out}" in called.errors
        assert len(called.errors.strip().splitlines()) == 1
    begun = len(read_rows(out)) if suffix == "parquet" else out.read_bytes().count(b"\n")
    assert 0 < begun < 2000

    for image in sorted((tmp_path / "new").iterdir())[begun + 100 :]:
        image.unlink()
    assert main([*words, "--resume"]) == 0
    names = [Path(row["path"]).name for row in read_rows(out)]
    assert len(names) == len(set(names)) >= begun + 99
    assert set(names) >= {image.name for image in (tmp_path / "new").iterdir()}
    assert "were there" in capsys.readouterr().out
    before = out.read_bytes() if out.is_file() else sorted(out.iterdir())
    assert main([*words, "--resume"]) == 0
    assert before == (out.read_bytes() if out.is_file() else sorted(out.iterdir()))


def test_processes_share_the_images(run: Path, photos: Path, tmp_path: Path) -> None:
    """The one that meets a damaged image ends long before the other one, and does not take it down by its exit code."""
    new, out = tmp_path / "new", tmp_path / "p.csv"
    new.mkdir()
    Image.new("RGB", (5000, 5000), "blue").save(tmp_path / "large.png")
    for number in range(24):
        os.link(tmp_path / "large.png" if number // 2 % 2 else photos / "blue" / "00.jpg", new / f"{number:02d}.img.png")
    (new / "00.img.png").unlink()
    (new / "00.img.png").write_text("no image")
    words = ["predict", str(run), str(new), "--device", "cpu", "--batch-size", "2", "--out", str(out)]
    called = torchrun(["-m", "svp", *words], tmp_path / "shown")
    assert called.wait() == 1, called.errors
    parts = [read_rows(tmp_path / f"p-0000{rank}-of-00002.csv") for rank in range(2)]
    assert [len(part) for part in parts] == [12, 12]
    assert len({row["path"] for part in parts for row in part}) == 24
    assert [row["path"] for part in parts for row in part if row["error"]] == [str(new / "00.img.png")]

    shutil.copy(photos / "blue" / "00.jpg", new / "more.jpg")
    assert main([*words, "--resume"]) == 1  # one of its images could not be read
    assert [Path(row["path"]).name for row in read_rows(out)] == ["more.jpg"]


def test_wrong_usage_is_told_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refusal(*words: str) -> str:
        assert main(["predict", "no-run", "no-image", *words]) == 2
        return capsys.readouterr().err

    assert "csv, jsonl or parquet" in refusal("--resume")
    assert "csv, jsonl or parquet" in refusal("--resume", "--out", str(tmp_path / "p.json"))
    assert "leave --resume or --features out" in refusal("--resume", "--out", "p.csv", "--features", "f.npz")
    assert "name it by --out" in refusal("--format", "parquet")
    (tmp_path / "file").touch()
    assert "is a file" in refusal("--format", "parquet", "--out", str(tmp_path / "file"))
    assert "does not exist" in refusal("--format", "parquet", "--out", str(tmp_path / "no" / "folder"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "each of 2 processes writes a part" in refusal()


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
