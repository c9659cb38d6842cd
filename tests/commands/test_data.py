"""``svp data``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from svp.cli import main
from tests.training.conftest import write_photos


def test_data(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "list"]) == 0
    assert "digits" in capsys.readouterr().out
    assert main(["data", "info", "digits"]) == 0
    assert "1797" in capsys.readouterr().out
    assert main(["data", "check", str(photos)]) == 0
    assert "42 of 42 images can be read" in capsys.readouterr().out
    broken = write_photos(tmp_path / "broken", per_class=30)
    (broken / "blue" / "00.jpg").write_text("x")
    assert main(["data", "check", str(broken)]) == 1
    assert "blue/00.jpg: not an image in a known format" in capsys.readouterr().out


def test_data_check_as_json(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(photos), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["classes"] == ["amber", "blue", "green"]
    assert sum(found["images"].values()) == 42
    assert found["unreadable"] == []
    broken = write_photos(tmp_path / "broken", per_class=30)
    (broken / "blue" / "00.jpg").write_text("x")
    assert main(["data", "check", str(broken), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["unreadable"][0]["path"].endswith("00.jpg")


def test_data_fetch_and_check_use_the_data_root(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "fetch", "digits", "--data-root", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'digits'}\n"
    assert len(list((tmp_path / "digits").rglob("*.png"))) == 1797
    (tmp_path / "digits" / "0" / "more.png").write_bytes((tmp_path / "digits" / "0" / "0000.png").read_bytes())
    assert main(["data", "check", "digits", "--data-root", str(tmp_path)]) == 1
    text = capsys.readouterr().out
    assert "1798 of 1798" in text
    assert "error: train: 1,798 images, the catalog says 1,797" in text
