"""Predictions on a Ray cluster of two CPUs, one worker of which is killed in the middle."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from svp.cli import main
from tests.commands.test_predict import link_photos, read_rows
from tests.training.conftest import FAST, write_photos

ray = pytest.importorskip("ray", reason="Ray is not installed")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a cluster that lasts as long as the test."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    try:
        yield cluster.address
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.mark.exhaustive
def test_a_killed_worker_loses_and_doubles_nothing(
    tmp_path: Path, cluster: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import svp

    photos = write_photos(tmp_path / "photos")
    run = svp.train(data=str(photos), out=str(tmp_path / "run"), **FAST | {"model": "vim_nano", "epochs": 1}).directory
    link_photos(photos, tmp_path / "new", 3000)
    shutil.copy(photos / "amber" / "00.jpg", tmp_path / "new" / "bad.jpg")
    (tmp_path / "new" / "bad.jpg").write_text("no image")
    out = tmp_path / "p.parquet"
    killed: list[int] = []

    def kill_one() -> None:
        while not list(out.glob("part-ray-*")):
            time.sleep(0.02)
        workers = [p for p in psutil.Process().children(recursive=True) if "MapWorker" in " ".join(p.cmdline())]
        os.kill(workers[0].pid, signal.SIGKILL)
        killed.append(workers[0].pid)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    words = ["predict", str(run), str(tmp_path / "new"), "--out", str(out), "--ray", cluster]
    assert main(words) == 1  # one image cannot be read
    assert killed
    assert f"cannot read {tmp_path / 'new' / 'bad.jpg'}: not an image" in capsys.readouterr().err
    rows = read_rows(out)
    assert sorted(row["path"] for row in rows) == sorted(map(str, (tmp_path / "new").iterdir()))
    assert [Path(row["path"]).name for row in rows if row["error"]] == ["bad.jpg"]
    assert sum(row["class_1"] is None for row in rows) == 1

    next(out.glob("part-ray-*")).unlink()
    assert main([*words, "--resume"]) == 1
    assert sorted(row["path"] for row in read_rows(out)) == sorted(row["path"] for row in rows)
