"""``svp demo``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from svp.demo import SETTINGS, demo

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # importing it fails
from svp.cli import main
main(["demo", "--out", sys.argv[1]])
"""


def test_title_comes_before_what_is_slow(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout.startswith("svp demo")
    assert "torch" in done.stderr


def test_three_methods_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in dict(shots=2, epochs=1, val_fraction=0.02, test_fraction=0.02).items():
        monkeypatch.setitem(SETTINGS, name, value)
    runs = demo(tmp_path / "demo")
    assert [run.directory.name for run in runs] == ["linear", "vpt_deep", "svp"]
    assert (tmp_path / "demo" / "demo.png").is_file()
    assert "test images, backbone frozen" in capsys.readouterr().out
