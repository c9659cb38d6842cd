"""Settings of this process that make PyTorch's and our own kernels faster; the ``svp`` command makes them at its start."""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def prepare() -> None:
    """Make idle threads yield soon, and keep freed memory for the next tensor. Call it before PyTorch is imported.

    The C library hands the memory of a large tensor back to the system when the tensor is freed, and gets it again, page by
    page, for the next one: 12 to 15 % of a training step of Vim-S. Kept, it costs up to 5 % more memory. Only glibc (Linux)
    has the setting. Environment variables that are set already win.
    """
    # threads that wait may spin only briefly, or two busy programs stop each other
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    if sys.platform != "linux" or "MALLOC_MMAP_THRESHOLD_" in os.environ or "GLIBC_TUNABLES" in os.environ:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 2**30)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
