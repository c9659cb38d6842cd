"""What must be measured in a process of its own: peak memory, and the first call. Prints a number of JSON each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from typing import Any

import torch

from svp.bench.cases import Case, ours
from svp.training.machine import peak_memory_mb, reset_peak_memory


def memory_per_image(case: Case, device: torch.device) -> float:
    """Megabytes that each further image of a batch adds to the peak: of the batch, less of a batch of one.

    Weights, compiled code and what libraries allocate once fall out of the difference.
    """
    small, large = (_probe(["memory", *_arguments(case, device, size)]) for size in (1, case.batch_size))
    return (large["mb"] - small["mb"]) / (case.batch_size - 1)


def first_call_seconds(case: Case, device: torch.device) -> tuple[float, float]:
    """Seconds of the first call less those of the third, with no cache of compiled kernels, and with the one it left."""
    with tempfile.TemporaryDirectory() as folder:
        cold, warm = (
            _probe(["first", *_arguments(case, device, case.batch_size)], NUMBA_CACHE_DIR=folder, TRITON_CACHE_DIR=folder)
            for _ in range(2)
        )
    return cold["seconds"], warm["seconds"]


def _arguments(case: Case, device: torch.device, batch_size: int) -> list[str]:
    return [json.dumps(asdict(case) | {"batch_size": batch_size}), str(device), str(torch.get_num_threads())]


def _probe(arguments: list[str], **environment: str) -> dict[str, float]:
    command = [sys.executable, "-m", "svp.bench.probe", *arguments]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip().splitlines()[-1:]}")
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def _main(what: str, case_json: str, device_name: str, threads: str) -> None:
    torch.set_num_threads(int(threads))
    values: dict[str, Any] = json.loads(case_json)
    case, device = Case(**values), torch.device(device_name)
    step = ours(case, device)
    if what == "memory":
        step()  # compiles, and fills the caches of libraries
        reset_peak_memory(device)
        step()
        print(json.dumps({"mb": peak_memory_mb(device)}))
    else:
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
        print(json.dumps({"seconds": max(0.0, seconds[0] - seconds[2])}))


if __name__ == "__main__":
    _main(*sys.argv[1:])
