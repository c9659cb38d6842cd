"""``svp hub push``, and other commands on what it pushed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from svp.cli import main
from tests.hub import Hub


def test_push_and_predict(run: Path, photos: Path, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hub", "push", str(run), "ann/colors", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert not hub.requests
    for name in ("README.md", "adapter.json", "adapter.safetensors"):
        assert name in said
    assert f"{(run / 'adapter.safetensors').stat().st_size:,} bytes" in said
    assert "pipeline_tag: image-classification" in said
    assert main(["hub", "push", str(run), "ann/colors", "--private"]) == 0
    assert "next: svp predict hf-hub:ann/colors" in capsys.readouterr().out
    assert hub.repositories["ann/colors"].private
    images = [str(photos / name / "00.jpg") for name in ("amber", "blue")]
    found = []
    for where in (str(run), "hf-hub:ann/colors"):
        assert main(["predict", where, *images, "--format", "json", "--device", "cpu"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0] == found[1]
    assert main(["eval", "hf-hub:ann/colors", "--data", str(photos), "--device", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n_test"] == 42
    for command in (["export"], ["inspect", "--data", str(photos)]):
        assert main([command[0], "hf-hub:ann/colors", *command[1:]]) == 1
        assert "name the place to write to by --out" in capsys.readouterr().err


def test_errors(run: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert main(["hub", "push", str(run), "ann/colors"]) == 1
    assert capsys.readouterr().err.startswith("svp hub: error: there is no token for the Hugging Face Hub: log in by")
    assert main(["predict", "hf-hub:ann/nothing", str(run)]) == 1
    assert main(["hub", "pull"]) == 2
