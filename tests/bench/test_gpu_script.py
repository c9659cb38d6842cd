"""benchmarks/gpu.sh, rehearsed: the script runs where there is no GPU, and makes a page of whatever was measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.gpu_page import lines

ROOT = Path(__file__).parents[2]


def rehearse(out: Path, parts: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(ROOT / "benchmarks" / "gpu.sh"), "--rehearse", "--out", str(out)]
    settings = os.environ | {"PARTS": parts, "PYTHON": sys.executable}
    return subprocess.run(command, env=settings, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.skipif(os.name == "nt", reason="a script for bash")
def test_the_cheap_parts(tmp_path: Path) -> None:
    pytest.importorskip("triton", minversion="3.3")
    done = rehearse(tmp_path, "scan")
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "scan.json").read_text())["scan"]
    assert [(row["pass"], row["dtype"]) for row in rows] == [
        (step, dtype) for dtype in ("float32", "bfloat16") for step in ("forward", "backward")
    ]
    page = (tmp_path / "README.md").read_text()
    assert "| pass | dtype |" in page
    assert "## profile\n\nNot run." in page


@pytest.mark.exhaustive
def test_every_part(tmp_path: Path) -> None:
    done = rehearse(tmp_path, "")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.glob("*.json")} >= {
        f"{part}.json" for part in ("tests", "scan", "model", "official", "profile", "pretrain")
    }


def test_a_page_of_a_run_that_was_cut_off(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(json.dumps({"machine": {"device": "H200"}, "model": [{"task": "a", "ms": 0.123456}]}))
    (tmp_path / "model.status.json").write_text(json.dumps({"status": 124}))
    (tmp_path / "scan.json").write_text('{"scan": [')  # killed while it wrote
    (tmp_path / "tests.status.json").write_text(json.dumps({"status": 1}))
    page = "\n".join(lines(tmp_path))
    assert "device H200" in page
    assert "Cut off by its limit" in page
    assert "| a | 0.1235 |" in page
    assert "Ended with status 1." in page
    assert page.count("Not run.") == 4
