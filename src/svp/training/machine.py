"""What a result depends on besides the settings: versions, and the memory that was used."""

from __future__ import annotations

import ctypes
import gc
import platform
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import torch

from svp import __version__


def environment() -> dict[str, str]:
    """Versions that a result depends on."""
    found = {"python": platform.python_version(), "platform": platform.platform(), "svp": __version__}
    for package in ("torch", "torchvision", "timm", "accelerate", "numpy", "pillow", "numba"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


_COUNT_MEMORY = ("cuda", "xpu")
"""Devices that PyTorch counts the memory of."""


def reset_peak_memory(device: torch.device) -> None:
    """Begin to measure ``peak_memory_mb`` anew: a process may hold several runs, one after the other.

    Memory that earlier runs gave back goes back to the system first, as far as the system takes it. Where the mark cannot
    be reset (all but Linux and GPUs), the peak is the highest of all runs of the process so far.
    """
    gc.collect()
    if device.type in _COUNT_MEMORY:
        module = torch.get_device_module(device)
        module.empty_cache()
        module.reset_peak_memory_stats(device)
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # a container may forbid it; another C library may lack it
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory since ``reset_peak_memory``, in MB: of the GPU where there is one, else of this process."""
    if device.type in _COUNT_MEMORY:
        return float(torch.get_device_module(device).max_memory_allocated(device)) / 1e6
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset) / 1e6
    if sys.platform == "linux":  # ru_maxrss cannot be reset, and begins with that of the process which started this one
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3
