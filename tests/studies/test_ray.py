"""A study on a Ray cluster of two CPUs, one of whose processes is killed in the middle."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from svp.studies import make_study, run_study
from svp.studies.tables import accuracy_table

ray = pytest.importorskip("ray", reason="Ray is not installed")


@pytest.mark.slow
def test_a_killed_worker_does_not_keep_the_table_from_completing(
    values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    values["settings"]["epochs"] = 3
    values["methods"] = {"linear": {"lr": 0.01}}
    values["seeds"] = [0, 1]
    killed = []

    def kill_one() -> None:
        while not list((tmp_path / "study").glob("runs/*/metrics.jsonl")):
            time.sleep(0.02)
        processes = [p for p in psutil.Process().children(recursive=True) if "_execute_on_ray" in p.name()]
        killed.append(processes[0].pid)
        os.kill(processes[0].pid, signal.SIGKILL)

    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    try:
        killer = threading.Thread(target=kill_one, daemon=True)
        killer.start()
        outcomes = []
        comparison = run_study(
            make_study(values), tmp_path / "study", ray=cluster.address, report=lambda job, failure: outcomes.append(failure)
        )
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert killed
    assert outcomes == [None] * 2
    assert comparison.is_complete
    assert "±" in accuracy_table(comparison).rows[0][1]
