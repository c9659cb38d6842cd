"""What this process may use of the machine: CPUs, shared memory, open files. A container allows less than there is."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from math import ceil
from pathlib import Path

_CPU = ("cpu", "cpu,cpuacct", "cpuacct,cpu")  # what the hierarchy of version 1 may be called


def usable_cpus(root: Path = Path("/")) -> int:
    """CPUs that this process may use: every number of threads and worker processes comes from here.

    It is the smallest of the CPUs that the process may run on (its affinity) and the quotas of its control groups, as
    ``docker run --cpus 2`` sets one, rounded up. Processes that torchrun started on one machine share it evenly.

    Args:
        root: Where ``proc`` and ``sys`` are.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cpu_quota(root)
    if quota is not None:
        cpus = min(cpus, ceil(quota))
    processes = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(1, cpus // (int(processes) if processes.isdigit() and int(processes) else 1))


def _cpu_quota(root: Path) -> float | None:
    """CPUs worth of time that the control groups of this process allow, of either version; None without a limit."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    groups = root / "sys/fs/cgroup"
    quotas = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        tops = [groups / place for place in _CPU] if controllers else [groups, groups / "unified"]
        # a container that does not see its own group under that name has it at the top
        for folder in {place for top in tops for place in _upwards(top, name)}:
            quotas.append(_quota(folder))
    return min((quota for quota in quotas if quota is not None), default=None)


def _upwards(top: Path, name: str) -> list[Path]:
    """The folder of a control group and of those that it lies in; each has a limit of its own."""
    parts = [part for part in name.split("/") if part not in ("", "..")]
    return [top.joinpath(*parts[:length]) for length in range(len(parts) + 1)]


def _quota(folder: Path) -> float | None:
    with suppress(OSError, ValueError, ZeroDivisionError):
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text(encoding="utf-8").strip()
            period = (folder / "cpu.cfs_period_us").read_text(encoding="utf-8").strip()
        if quota not in ("max", "-1"):
            return int(quota) / int(period)
    return None


def limit_threads() -> None:
    """Let PyTorch start no more threads than ``usable_cpus``. Without effect once it is imported.

    It counts CPUs by itself, and heeds an affinity but no quota: threads beyond it make all of them stop for a part of
    every period. Environment variables that are set already win.
    """
    cpus = usable_cpus()
    if cpus < (os.cpu_count() or 1) and "torch" not in sys.modules:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ.setdefault(name, str(cpus))


def allow_open_files() -> None:
    """Raise the number of files that may be open to what the system allows without asking anyone."""
    if os.name == "nt":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def shared_memory(folder: Path = Path("/dev/shm")) -> int | None:
    """Free bytes where processes share tensors; None where that is not a folder (Linux alone has one)."""
    try:
        found = os.statvfs(folder)
    except (OSError, AttributeError):
        return None
    return found.f_bavail * found.f_frsize
