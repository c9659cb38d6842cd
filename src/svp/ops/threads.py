"""How many threads a kernel of the CPU runs on, and on which: those of PyTorch, where its OpenMP can be reached."""

from __future__ import annotations

import ctypes
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any

import torch

_in_forked_child = False


def _after_fork() -> None:
    global _in_forked_child
    _in_forked_child = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def kernel_threads() -> int:
    """``torch.get_num_threads()``, but 1 in a forked process: thread pools do not survive a fork, OpenMP would hang."""
    return 1 if _in_forked_child else torch.get_num_threads()


def team_address() -> int:
    """Address of a C function ``void team(void (*run)(void *), void *data, unsigned threads, unsigned flags)``.

    It calls ``run(data)`` on `threads` threads, of which one is the caller's, and returns once all are done. It is an entry of
    the OpenMP library that PyTorch uses, whose threads are then the same: those of a second pool would compete with them.
    Where there is none by that name, as on Windows, it is ``team_in_python``.
    """
    # a handle looks up names in its dependencies too
    found = getattr(ctypes.CDLL(torch._C.__file__), "GOMP_parallel", None)
    return ctypes.cast(found or team_in_python, ctypes.c_void_p).value or 0


@ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
def team_in_python(function: int, data: int, threads: int, flags: int) -> None:
    """``team_address`` with threads of Python, a tenth of a millisecond slower to start.

    `data` is gone once this returns, so nobody may be left who runs on it. No exception passes through the C code of the
    caller: what came meanwhile (Ctrl-C) is left to ``raise_late``. Where no further thread starts, this one does all the work.
    """
    run: Any = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(function)
    helpers: list[Future[None]] = []
    pool = _pool()
    try:
        for _ in range(threads - 1):
            helpers.append(pool.submit(run, data))
    except BaseException as error:  # no further thread can start, or Python ends; one may have begun that we do not know
        if not isinstance(error, RuntimeError):
            _late.error = error
        pool.shutdown(cancel_futures=True)
        _pool.cache_clear()
    try:
        run(data)
    except BaseException as error:
        _late.error = error
    while helpers:
        try:
            if not helpers[-1].cancel():  # one that has not begun has nothing left to do
                helpers[-1].result()
            helpers.pop()
        except BaseException as error:
            _late.error = error


def raise_late() -> None:
    """Raise what interrupted ``team_in_python`` on this thread, if anything did."""
    error, _late.error = _late.error, None
    if error is not None:
        raise error


class _Late(threading.local):
    error: BaseException | None = None


_late = _Late()


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="svp-kernel")
