"""Two processes on the CPU (gloo) give the same metrics as one, and so does ``accelerate launch``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from svp.cli import main
from tests.processes import torchrun
from tests.training.conftest import write_photos

TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
# on a CPU `accelerate launch` starts several processes by MPI only; without MPI it is the one-process launcher
ACCELERATE = ["accelerate.commands.launch", "--cpu", "--num_processes", "1"]


def command(photos: Path, out: Path) -> list[str]:
    words = ["train", "--data", photos, "--model", "vim_nano", "--weights", "random", "--img-size", 16, "--epochs", 2]
    words += ["--batch-size", 6, "--device", "cpu", "--out", out, "--tracker", "csv"]
    return [str(word) for word in words]


def launched(launcher: list[str], arguments: list[str]) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *launcher, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def metrics(out: Path) -> list[float]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row[key] for row in rows for key in ("train_loss", "selection_loss", "selection_top1")]


def result(out: Path) -> dict[str, Any]:
    outcome: dict[str, Any] = json.loads((out / "result.json").read_text())
    return outcome


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process; the images lie beside it."""
    place = tmp_path_factory.mktemp("whole")
    main(command(write_photos(place / "photos"), place / "run"))
    return place / "run"


def assert_alike(whole: Path, run: Path, processes: int) -> None:
    assert result(run)["processes"] == processes
    assert metrics(run) == pytest.approx(metrics(whole), rel=1e-4)
    assert len((run / "metrics.csv").read_text().splitlines()) == 3  # written by one process
    assert (result(run)["top1"], result(run)["n_test"]) == (result(whole)["top1"], result(whole)["n_test"])


@pytest.mark.exhaustive
def test_accelerate_launch_gives_the_metrics_of_python(tmp_path: Path, whole: Path) -> None:
    launched([*ACCELERATE, "-m", "svp"], command(whole.parent / "photos", tmp_path / "run"))
    assert_alike(whole, tmp_path / "run", processes=1)


DIVERGE_IN_ONE = """
import os, sys
from svp.training import steps
own = steps.loss_of
def loss_of(prepared, images, labels):
    return own(prepared, images, labels) * (float("nan") if prepared.config.rate > 0.01 and os.environ["RANK"] == "1" else 1)
steps.loss_of = loss_of
from svp.cli import main
main(["train", *sys.argv[1:]])
"""


@pytest.mark.exhaustive
def test_a_candidate_that_diverges_in_one_process_is_left_by_all(tmp_path: Path, whole: Path) -> None:
    (tmp_path / "one.py").write_text(DIVERGE_IN_ONE)
    words = [*command(whole.parent / "photos", tmp_path / "run")[1:], "--lr", "auto", "--epochs", "1"]
    launched([*TORCHRUN, str(tmp_path / "one.py")], words)
    first = json.loads((tmp_path / "run" / "search" / "scores.json").read_text())["rounds"][0]["scores"]
    assert [name for name, score in first.items() if score is None] == ["svp-0.015"]


# handlers run in the reverse order of their registration: the first one sees what the others left
TRAIN_AND_SCORE = """
import atexit, contextlib, os, sys
import torch.distributed
atexit.register(lambda: torch.distributed.is_initialized() and os._exit(77))  # gloo may abort a process that ends joined
from svp.cli import main
with contextlib.redirect_stdout(sys.stderr):
    main(["train", *sys.argv[1:]])
main(["eval", sys.argv[sys.argv.index("--out") + 1], "--json", "--device", "cpu", "--batch-size", "4"])
"""


def test_two_processes_train_and_score_as_one(tmp_path: Path, whole: Path) -> None:
    words = command(whole.parent / "photos", tmp_path / "run")
    called = torchrun(["-c", TRAIN_AND_SCORE, *words[1:]], tmp_path / "shown")
    assert called.wait() == 0, called.errors
    assert_alike(whole, tmp_path / "run", processes=2)
    assert json.loads(called.output)["top1"] == result(whole)["top1"]


@pytest.mark.exhaustive
def test_processes_of_torchrun_train_score_and_part(tmp_path: Path, whole: Path) -> None:
    (tmp_path / "both.py").write_text(TRAIN_AND_SCORE)
    shown = launched([*TORCHRUN, str(tmp_path / "both.py")], command(whole.parent / "photos", tmp_path / "run")[1:])
    assert_alike(whole, tmp_path / "run", processes=2)
    assert json.loads(shown)["top1"] == result(whole)["top1"]


@pytest.mark.exhaustive
def test_processes_have_the_clusters_that_one_of_them_made(tmp_path: Path, whole: Path) -> None:
    """Process 1 could not make any: its images are not looked at."""
    method = ["--method", "dam_vp", "--method.dam_vp.threshold", "0.3"]
    words = [*command(whole.parent / "photos", tmp_path / "two"), *method]
    guard = "import os, svp\nif os.environ.get('RANK') == '1':\n    svp.tuners.DAMVP.fitted = None\n"
    (tmp_path / "two.py").write_text(guard + TRAIN_AND_SCORE)
    launched([*TORCHRUN, str(tmp_path / "two.py")], words[1:])
    main([*command(whole.parent / "photos", tmp_path / "one"), *method])
    assert metrics(tmp_path / "two") == pytest.approx(metrics(tmp_path / "one"), rel=1e-4)
    described = [json.loads((tmp_path / name / "adapter.json").read_text())["method"] for name in ("one", "two")]
    assert described[0] == described[1]
    assert described[0]["dam_vp"]["num_prompts"] > 1
