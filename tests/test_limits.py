"""What this process may use of the machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from svp.data import choose_num_workers
from svp.limits import shared_memory, usable_cpus


def lay_out(root: Path, groups: str, files: dict[str, str]) -> Path:
    """The files of a machine that tell of control groups."""
    for name, text in {"proc/self/cgroup": groups, **{f"sys/fs/cgroup/{name}": text for name, text in files.items()}}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


QUOTAS = {
    "version 2, in a container": ("0::/\n", {"cpu.max": "100000 100000\n"}, 1),
    "version 2, on the host": ("0::/a.slice/b.scope\n", {"a.slice/b.scope/cpu.max": "250000 100000\n"}, 3),
    "the group above has a limit": ("0::/a/b\n", {"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000\n"}, 2),
    "less than one": ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
    "no limit": ("0::/\n", {"cpu.max": "max 100000\n"}, 64),
    "version 1, docker run --cpus 1": (
        "4:cpu,cpuacct:/docker/0123\n3:cpuset:/\n",  # in the container the group itself is at the top
        {"cpu,cpuacct/cpu.cfs_quota_us": "100000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"},
        1,
    ),
    "version 1, no limit": ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
    "both": ("1:cpu:/x\n0::/\n", {"cpu/x/cpu.cfs_quota_us": "300000", "cpu/x/cpu.cfs_period_us": "100000"}, 3),
    "nonsense": ("0::/../..\nnonsense\n", {"cpu.max": "a lot\n"}, 64),
}


@pytest.mark.parametrize(("groups", "files", "expected"), QUOTAS.values(), ids=QUOTAS)
def test_cpus_follow_the_quota_of_a_container(
    groups: str, files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert usable_cpus(lay_out(tmp_path, groups, files)) == expected


def test_processes_of_torchrun_share_the_cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    for processes, expected in (("4", 16), ("100", 1), ("many", 64)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        assert usable_cpus(tmp_path) == expected


THREADS = """
import os, sys
from pathlib import Path
import svp.limits
real = svp.limits.usable_cpus
svp.limits.usable_cpus.__defaults__ = (Path(sys.argv[1]),)  # where proc and sys are
os.cpu_count, os.sched_getaffinity = lambda: 64, lambda _: set(range(64))
from svp.process import prepare
prepare()
import torch
from svp.data.pipeline.threads import in_threads
threads = set()
import threading, time
def work(_):
    threads.add(threading.get_ident())
    time.sleep(0.01)
list(in_threads(work, range(50)))
torch.set_num_threads(8)
from svp.runs.devices import make_accelerator
make_accelerator("cpu", "fp32")
from svp.ops.threads import kernel_threads
print(os.environ["OMP_NUM_THREADS"], kernel_threads(), len(threads), torch.get_num_threads())
"""


def test_every_pool_of_threads_follows(tmp_path: Path) -> None:
    lay_out(tmp_path, "0::/\n", {"cpu.max": "200000 100000\n"})
    unset = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "LOCAL_WORLD_SIZE")
    done = subprocess.run(
        [sys.executable, "-c", THREADS, str(tmp_path)],
        env={name: value for name, value in os.environ.items() if name not in unset},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.split() == ["2"] * 4, done.stderr


RESOURCES = """
import resource
from svp.process import prepare
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (32, min(hard, 512) if hard > 0 else 512))
prepare()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limit")
def test_as_many_files_as_may_be_open() -> None:
    done = subprocess.run([sys.executable, "-c", RESOURCES], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["512", "512"]


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="Linux alone has it")
def test_workers_that_do_not_fit_into_shared_memory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    free = shared_memory()
    assert free is not None
    cpu, told = torch.device("cpu"), list[str]()
    assert choose_num_workers(None, cpu, (32, 224), told.append) == 0
    monkeypatch.setattr("svp.data.pipeline.loading.shared_memory", lambda: 64 * 1024)
    assert choose_num_workers(4, cpu, (32, 224), told.append) == 0
    assert "4 worker processes need 231.5 MB of shared memory, /dev/shm has 0.1 MB free" in told[0]
    assert "read by this process (docker run --shm-size" in told[0]
    monkeypatch.setattr("svp.data.pipeline.loading.shared_memory", lambda: 130 * 10**6)
    assert choose_num_workers(4, cpu, (32, 224)) == 2
    assert "read by 2 of them" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="workers start slowly elsewhere")
def test_workers_for_a_gpu_are_the_cores_of_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("svp.data.pipeline.loading.shared_memory", lambda: None)
    gpu = torch.device("cuda")
    for cpus, processes, workers in ((4, 1, 4), (64, 1, 16), (64, 8, 8), (4, 8, 1)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda process, cpus=cpus: set(range(cpus)))
        monkeypatch.setattr("svp.limits._cpu_quota", lambda root: None)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        assert choose_num_workers(None, gpu, (32, 224)) == workers
