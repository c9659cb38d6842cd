"""Where a training step of SVP spends its time on a GPU: kernels, idle time, copies, and what makes the host wait.

    python -m benchmarks.gpu_profile --out DIR

With ``TRITON_INTERPRET=1`` it profiles a tiny step on the CPU, to try the script.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_scan import REHEARSAL, milliseconds, model_step

STEPS = 1 if REHEARSAL else 5
LISTED = 25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    report: dict[str, Any] = {}
    batch, size = (2, 8) if REHEARSAL else (96, 224)
    for training in (True, False):
        name = "SVP training step" if training else "inference"
        step, _ = model_step("bf16", training, batch, size)
        report[name] = describe(step)
        print(
            f"{name}, bf16, batch {batch}: "
            + ", ".join(f"{key} {value}" for key, value in report[name].items() if key != "kernels")
        )
        for row in report[name]["kernels"]:
            print(f"  {row['us']:10.0f} us  {row['share']:6.1%}  {row['calls']:6.0f} calls  {row['kernel'][:90]}")
        (options.out / "profile.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def describe(step: Callable[[], object]) -> dict[str, Any]:
    """Times are of one step."""
    step_us = 1e3 * milliseconds(step, STEPS)
    waits = host_waits(step)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (not REHEARSAL)
    with profile(activities=activities) as profiled:
        for _ in range(STEPS):
            step()
        if not REHEARSAL:
            torch.cuda.synchronize()

    def spent(event: Any) -> float:
        return float(event.self_cpu_time_total if REHEARSAL else event.self_device_time_total) / STEPS

    on_device = torch.autograd.DeviceType.CPU if REHEARSAL else torch.autograd.DeviceType.CUDA
    events = [event for event in profiled.key_averages() if event.device_type == on_device]
    busy = sum(map(spent, events))
    top = sorted(events, key=spent, reverse=True)[:LISTED]
    launches = sum(event.count for event in profiled.key_averages() if "LaunchKernel" in event.key) / STEPS
    return {
        "step_us": round(step_us),
        "busy_us": round(busy),
        "idle": round(max(0.0, 1 - busy / step_us), 3),
        "launches": launches,
        "host_waits": waits,
        "kernels": [{"kernel": e.key, "us": spent(e), "share": spent(e) / busy, "calls": e.count / STEPS} for e in top],
    }


def host_waits(step: Callable[[], object]) -> list[str]:
    """Places in the code where the host waits for the GPU, of which a step should have none."""
    if REHEARSAL:
        return []
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sorted({f"{warning.filename}:{warning.lineno}" for warning in caught if "synchroniz" in str(warning.message)})


if __name__ == "__main__":
    main()
