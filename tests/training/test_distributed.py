"""Two processes on the CPU (gloo) give the same metrics as one, and so does ``accelerate launch``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

LAUNCHERS = {
    "python": [sys.executable, "-m", "svp"],
    "torchrun": [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "svp"],
    # on a CPU `accelerate launch` starts several processes by MPI only; without MPI it is the one-process launcher
    "accelerate": [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "-m", "svp"],
}
PROCESSES = {"torchrun": 2, "accelerate": 1}


def metrics(launcher: str, photos: Path, out: Path) -> tuple[list[float], dict[str, object]]:
    words = ["train", "--data", photos, "--model", "vim_nano", "--weights", "random", "--img-size", 16, "--epochs", 2]
    words += ["--batch-size", 6, "--device", "cpu", "--out", out]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*LAUNCHERS[launcher], *map(str, words)], env=environment, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stdout + done.stderr
    scored = subprocess.run(
        [*LAUNCHERS[launcher], "eval", str(out), "--json", "--device", "cpu", "--batch-size", "4"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert scored.returncode == 0, scored.stdout + scored.stderr
    assert json.loads(scored.stdout)["top1"] == json.loads((out / "result.json").read_text())["top1"]
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row[key] for row in rows for key in ("train_loss", "selection_loss", "selection_top1")], json.loads(
        (out / "result.json").read_text()
    )


@pytest.mark.slow
def test_two_processes_give_the_metrics_of_one(photos: Path, tmp_path: Path) -> None:
    expected, whole = metrics("python", photos, tmp_path / "one")
    for launcher, processes in PROCESSES.items():
        found, result = metrics(launcher, photos, tmp_path / launcher)
        assert result["processes"] == processes
        assert found == pytest.approx(expected, rel=1e-4)
        assert (result["top1"], result["n_test"]) == (whole["top1"], whole["n_test"])
