"""Settings of this process that make PyTorch's and our own kernels faster; the ``svp`` command makes them at its start.

A second process can work beside it, for as long as it lives.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import subprocess
import sys
import threading

from svp.limits import allow_open_files, limit_threads, usable_cpus

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def prepare() -> None:
    """Keep to the CPUs that are allowed, make idle threads yield soon, and keep freed memory for the next tensor.

    Call it before PyTorch is imported.

    The C library hands the memory of a large tensor back to the system when the tensor is freed, and gets it again, page by
    page, for the next one: 12 to 15 % of a training step of Vim-S. Kept, it costs up to 5 % more memory. Only glibc (Linux)
    has the setting. Environment variables that are set already win.
    """
    limit_threads()
    allow_open_files()
    # threads that wait may spin only briefly, or busy programs stop each other: beside two of them on two cores a training
    # step of vim_nano takes 0.14 s, and 1 s with a count of 20000; alone 0.068 and 0.060 s
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    if sys.platform != "linux" or "MALLOC_MMAP_THRESHOLD_" in os.environ or "GLIBC_TUNABLES" in os.environ:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 2**30)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def run_beside(module: str) -> bool:
    """Start ``python -m module`` at low priority, silent; it ends with this process at the latest, however that ends.

    For work that may as well be left undone: an error in it goes unseen.

    Returns:
        Whether it was started: not where there is one core, or no process can be started.
    """
    if usable_cpus() < 2:
        return False
    silent = subprocess.DEVNULL
    try:
        # its standard input is a pipe that closes as this process ends; a session of its own keeps it from Ctrl-C
        helper = subprocess.Popen(
            [sys.executable, "-c", _BESIDE, module],
            stdin=subprocess.PIPE,
            stdout=silent,
            stderr=silent,
            start_new_session=True,
        )
    except OSError:
        return False
    threading.Thread(target=helper.wait, daemon=True).start()  # leaves no zombie
    atexit.register(helper.kill)
    return True


_BESIDE = """
import os, runpy, sys, threading

def end_with_parent():
    os.read(0, 1)
    os._exit(0)

threading.Thread(target=end_with_parent, daemon=True).start()
if hasattr(os, "nice"):
    os.nice(10)
runpy.run_module(sys.argv[1], run_name="__main__")
"""
