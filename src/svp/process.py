"""Settings of this process that make PyTorch's and our own kernels faster; the ``svp`` command makes them at its start.

A second process can work beside it, for as long as it lives.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from svp.limits import allow_open_files, limit_threads, usable_cpus

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def prepare() -> None:
    """Keep to the CPUs that are allowed, make idle threads yield soon, keep freed memory for the next tensor, and end soon.

    Call it before PyTorch is imported.

    As Python ends, it collects garbage several times over, and each time walks through all objects of PyTorch, which took
    longer than importing it without; frozen objects are passed by.

    The C library hands the memory of a large tensor back to the system when the tensor is freed, and gets it again, page by
    page, for the next one: 12 to 15 % of a training step of Vim-S. Kept, it costs up to 5 % more memory. Only glibc (Linux)
    has the setting. Environment variables that are set already win.
    """
    limit_threads()
    allow_open_files()
    atexit.register(gc.freeze)
    # threads that wait may spin only briefly, or busy programs stop each other: beside two of them on two cores a training
    # step of vim_nano takes 0.14 s, and 1 s with a count of 20000; alone 0.068 and 0.060 s
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    if sys.platform != "linux" or "MALLOC_MMAP_THRESHOLD_" in os.environ or "GLIBC_TUNABLES" in os.environ:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 2**30)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def run_beside(arguments: Sequence[str], log: Path, threads: int) -> subprocess.Popen[bytes] | None:
    """Start ``svp`` with these arguments in a second process; it ends with this one at the latest, however that ends.

    Args:
        arguments: A command and its arguments.
        log: File for all that it prints.
        threads: CPU threads that it may use.

    Returns:
        The process; None where there is one core, or no process can be started.
    """
    if usable_cpus() < 2:
        return None
    variables = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    try:
        with log.open("wb") as output:
            # its standard input is a pipe that closes as this process ends; a session of its own keeps it from Ctrl-C
            process = subprocess.Popen(
                [sys.executable, "-u", "-c", _BESIDE, *arguments],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={**os.environ, **variables},
            )
    except OSError:
        return None
    atexit.register(process.kill)
    return process


_BESIDE = """
import os, sys, threading

def end_with_parent():
    os.read(0, 1)
    os._exit(1)

threading.Thread(target=end_with_parent, daemon=True).start()
sys.argv[0] = "svp"
from svp.cli import main
sys.exit(main())
"""
