"""Kernels are compiled once, however many processes ask for them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from svp.ops.compiling import kernel

CODE = """
import sys, torch
torch.set_num_threads(1)
from svp.ops.causal_conv1d import cpu_numba as kernels
x, weight = torch.randn(1, 4, 16), torch.randn(16, 4)
print("ready", flush=True)
sys.stdin.readline()
y = kernels.forward(x, weight, None, None, False)
torch.testing.assert_close(y, torch.nn.functional.conv1d(x.mT, weight[:, None], padding=3, groups=16)[..., :4].mT)
stats = kernels._forward_serial.stats
print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""


def test_processes_compile_in_turn(tmp_path: Path) -> None:
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CODE],
            env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        for _ in range(2)
    ]  # fmt: skip
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        counts = sorted(tuple(map(int, process.communicate(timeout=120)[0].split())) for process in processes)
    finally:
        for process in processes:
            process.kill()
    assert counts == [(0, 1), (1, 0)]  # one has compiled, the other has read


def test_a_file_system_without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: FileLock, *arguments: Any, **options: Any) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr(FileLock, "acquire", refuse)

    @kernel()
    def note(items: int) -> None:
        items + 1

    note(3)
    assert len(note.signatures) == 1
