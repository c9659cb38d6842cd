"""Studies and searches on a Ray cluster of two CPUs; of the study one process is killed in the middle."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from svp.errors import UnavailableError
from svp.studies import engine, make_search, make_study, run_search, run_study
from svp.studies.tables import accuracy_table

ray = pytest.importorskip("ray", reason="Ray is not installed")


@pytest.fixture
def values(values: dict[str, Any]) -> dict[str, Any]:
    """Of a model that processes of Ray know."""
    values["settings"]["model"] = "vim_nano"
    return values


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a cluster that lasts as long as the test."""
    with _cluster(monkeypatch, num_cpus=2) as cluster:
        yield cluster.address


@contextmanager
def _cluster(monkeypatch: pytest.MonkeyPatch, num_cpus: int) -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    # on a machine that is busy with other tests a node answers late, and would count as dead; and workers, which Ray makes
    # yield to all other programs, would not be done in time
    busy = {"health_check_timeout_ms": 60_000, "health_check_failure_threshold": 20, "worker_niceness": 0}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": num_cpus, "_system_config": busy})
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_a_cluster_makes_the_runs(values: dict[str, Any], tmp_path: Path, cluster: str) -> None:
    values["methods"] = {"linear": {"lr": 0.01}}
    comparison = run_study(make_study(values), tmp_path / "study", ray=cluster)
    assert comparison.is_complete


@pytest.mark.exhaustive
def test_a_killed_worker_does_not_keep_the_table_from_completing(values: dict[str, Any], tmp_path: Path, cluster: str) -> None:
    values["settings"]["epochs"] = 3
    values["methods"] = {"linear": {"lr": 0.01}}
    values["seeds"] = [0, 1]
    killed = []

    def kill_one() -> None:
        while not list((tmp_path / "study").glob("runs/*/metrics.jsonl")):
            time.sleep(0.02)
        processes = [p for p in psutil.Process().children(recursive=True) if "execute" in p.name()]
        killed.append(processes[0].pid)
        os.kill(processes[0].pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    outcomes = []
    comparison = run_study(
        make_study(values), tmp_path / "study", ray=cluster, report=lambda job, failure: outcomes.append(failure)
    )
    assert killed
    assert outcomes == [None] * 2
    assert comparison.is_complete
    assert "±" in accuracy_table(comparison).rows[0][1]


@pytest.mark.exhaustive
def test_a_cluster_without_machines_is_given_up(
    values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values["methods"] = {"linear": {"lr": 0.01}}
    monkeypatch.setattr(engine, "PATIENCE", 2.0)
    expected = pytest.raises(UnavailableError, match=r"no CPU for 2 s: .* 1 runs have not ended")
    with _cluster(monkeypatch, num_cpus=0) as cluster, expected:
        run_study(make_study(values), tmp_path / "study", ray=cluster.address)


@pytest.mark.exhaustive
def test_a_search_shares_the_journal(values: dict[str, Any], tmp_path: Path, cluster: str) -> None:
    part = {name: values[name] for name in ("name", "settings", "data")}
    search = make_search(part | {"space": {"lr": {"low": 1e-3, "high": 0.1, "log": True}}, "trials": 3})
    trials = run_search(search, tmp_path / "search", ray=cluster)
    assert [trial.state for trial in trials] == ["complete"] * 3
    assert len({trial.point["lr"] for trial in trials}) == 3
    assert trials[0].top1 == max(trial.top1 or 0 for trial in trials)
    assert run_search(search, tmp_path / "search", ray="nowhere") == trials  # nothing is left to do
