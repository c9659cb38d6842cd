"""The user's own data in every form that ``--data`` takes: trained on, resumed, scored and checked."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import pytest

from svp.cli import main
from tests.commands.conftest import FAST
from tests.training.conftest import write_photos


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with a table in it, half of its images elsewhere; the current folder."""
    project = tmp_path / "project"
    project.mkdir()
    write_photos(project / "near")
    write_photos(tmp_path / "far", seed=1)
    near = [f"{path.relative_to(project)},{path.parent.name}" for path in sorted((project / "near").rglob("*.jpg"))]
    far = [f"{path},{path.parent.name}" for path in sorted((tmp_path / "far").rglob("*.jpg"))]
    (project / "photos.csv").write_text("\n".join(["path,label", *near, *far]))
    monkeypatch.chdir(project)
    return project / "photos.csv"


def test_train_resume_and_eval_by_table(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--data", "photos.csv", *FAST, "--method", "linear"]) == 0  # runs/ lies beside the table
    run = Path("runs/photos-vim_nano_patch4_32-linear-0")
    run = run if run.exists() else next(Path("runs").iterdir())
    splits = json.loads((run / "splits.json").read_text())
    paths = {path for part in ("train", "val", "test") for path, _ in splits[part]}
    assert len(paths) == 2 * 42
    assert all(not Path(path).is_absolute() and (Path(splits["root"]) / path).is_file() for path in paths)
    assert json.loads((run / "result.json").read_text())["data"]["root"].endswith("photos.csv")

    (run / "result.json").unlink()
    os.chdir(table.parent.parent)
    run = table.parent / run
    assert main(["train", "--out", str(run), "--resume"]) == 0
    result = json.loads((run / "result.json").read_text())
    capsys.readouterr()
    assert main(["eval", str(run), "--json", "--device", "cpu"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert (scores["n_test"], scores["top1"]) == (len(splits["test"]), result["top1"])

    rows = [
        "label,path,split",
        *(f"{name},near/{name}/00.jpg,test" for name in ("amber", "blue")),
        "mauve,near/blue/01.jpg,train",
    ]
    (table.parent / "other.csv").write_text("\n".join(rows))
    assert main(["eval", str(run), "--data", str(table.parent / "other.csv"), "--json", "--device", "cpu"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["n_test"] == 2
    assert scores["data"] == "rows of other.csv with split test"


def test_a_table_behind_a_link_resumes(table: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link.csv"
    link.symlink_to(table)
    words = ["train", "--data", str(link), *FAST, "--method", "linear", "--out", str(tmp_path / "run")]
    assert main(words) == 0
    (tmp_path / "run" / "result.json").unlink()
    assert main([*words, "--resume"]) == 0


def test_train_and_eval_by_archive(tmp_path: Path, svp_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = write_photos(tmp_path / "photos")
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
        for path in sorted(photos.rglob("*.jpg")):
            archive.write(path, path.relative_to(tmp_path))
    run = str(tmp_path / "run")
    assert main(["train", "--data", str(tmp_path / "pets.zip"), *FAST, "--method", "linear", "--out", run]) == 0
    assert json.loads((tmp_path / "run" / "result.json").read_text())["data"]["name"] == "pets"
    assert len(list((svp_home / "data" / "archives").rglob("*.jpg"))) == 42
    capsys.readouterr()
    assert main(["eval", run, "--data", str(tmp_path / "pets.zip"), "--json", "--device", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out)["n_test"] == 6  # its own test images; the others were trained on


def test_check_finds_nothing_wrong(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(table), "--json", "--img-size", "20"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"]
    assert found["findings"] == found["copies"] == found["unreadable"] == []
    assert found["images"] == {"train": 60, "val": 12, "test": 12}
    assert found["counts"]["blue"] == {"train": 20, "val": 4, "test": 4}
    assert found["sizes"]["width"] == {"min": 24, "median": 24, "max": 24}
    assert found["modes"] == {"RGB": 84}


def test_check_exits_with_1_on_a_leak_and_shows_the_files(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = table.read_text().splitlines()
    rows = ["path,label,split", *(f"{row},{'test' if number % 3 else 'train'}" for number, row in enumerate(rows[1:]))]
    (table.parent / "leak.jpg").write_bytes((table.parent / "near/blue/01.jpg").read_bytes())
    table.write_text("\n".join([*rows, "leak.jpg,blue,train", "leak2.jpg,blue,test"]))
    (table.parent / "leak2.jpg").write_bytes((table.parent / "leak.jpg").read_bytes())
    assert main(["data", "check", "photos.csv"]) == 1
    text = capsys.readouterr().out
    assert "error: 1 image is in two parts" in text
    assert "leak.jpg (train, blue)" in text
    assert "leak2.jpg (test, blue)" in text
    assert "errors: 1, warnings: 0, notes: 1" in text
    lines = [line.rstrip() for line in text.splitlines() if "/" not in line]
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_check_of_what_cannot_be_opened(tmp_path: Path, form: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.csv").write_text("path,label\na.jpg,cat\n")
    assert main(["data", "check", str(tmp_path / "t.csv"), *form]) == 1
    captured = capsys.readouterr()
    if form:
        found = json.loads(captured.out)
        assert not found["ok"]
        assert found["findings"][0]["level"] == "error"
        assert "line 2" in found["findings"][0]["message"]
    else:
        assert "line 2" in captured.err
