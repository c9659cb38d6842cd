"""How many threads a Numba kernel runs on, and on which. Importing this module does not import Numba."""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch

_in_forked_child = False
_layer_is_chosen = False
_workqueue_lock = threading.Lock()


def _after_fork() -> None:
    global _in_forked_child
    _in_forked_child = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def kernel_threads() -> int:
    """``torch.get_num_threads()``, but 1 in a forked process: thread pools do not survive a fork, OpenMP would hang."""
    return 1 if _in_forked_child else torch.get_num_threads()


def run_kernel(parallel: Callable[..., None], serial: Callable[..., None], items: int, *arguments: Any) -> None:
    """Call ``parallel(items, *arguments)``, or `serial` where one thread is enough.

    Numba's threading layer is chosen once per process, at the first parallel call. Unless ``NUMBA_THREADING_LAYER`` names one,
    OpenMP goes first: TBB would be Numba's own first choice, but its pool would compete with the one of PyTorch.
    """
    threads = min(kernel_threads(), items)
    if threads <= 1:
        serial(items, *arguments)
        return
    numba: Any = importlib.import_module("numba")

    with _turn(numba):
        before = numba.get_num_threads()
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
        try:
            parallel(items, *arguments)
        finally:
            numba.set_num_threads(before)


def _turn(numba: Any) -> Any:
    """A lock where two Python threads must not enter Numba's layer together: in "workqueue", and until the layer is known."""
    global _layer_is_chosen
    if not _layer_is_chosen:
        try:
            numba.threading_layer()
        except ValueError:  # nothing has run in parallel yet
            numba.config.THREADING_LAYER_PRIORITY = ["omp", "tbb", "workqueue"]
            return _workqueue_lock
        _layer_is_chosen = True
    return _workqueue_lock if numba.threading_layer() == "workqueue" else nullcontext()
