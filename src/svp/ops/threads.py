"""Work items of a Numba kernel on several threads of this process. Importing this module does not import Numba.

The kernels release the interpreter's lock, so ordinary threads run them side by side. Numba's own parallel loops would be
compiled a second time, and their thread pool dies in a fork, differs by what is installed, and in one of its kinds must not
be entered by two threads together.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import torch

_PARTS_PER_THREAD = 4  # a thread that others hold up leaves the rest to those that run


class _Pool:
    """Threads that wait for work; as many as were ever asked for."""

    def __init__(self) -> None:
        self._work: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0

    def help(self, task: Callable[[], None], helpers: int) -> None:
        """Have `helpers` threads call `task`, some time."""
        with self._lock:
            for number in range(self._threads, helpers):
                threading.Thread(target=self._run, name=f"svp-kernel-{number}", daemon=True).start()
            self._threads = max(self._threads, helpers)
        for _ in range(helpers):
            self._work.put(task)

    def _run(self) -> None:
        while True:
            task = self._work.get()
            task()
            del task  # and the tensors with it, while this thread waits


_pool = _Pool()


def _after_fork() -> None:
    global _pool
    _pool = _Pool()  # threads do not survive a fork


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def run_kernel(kernel: Callable[..., None], items: int, *arguments: Any) -> None:
    """``kernel((first, last), *arguments)`` for runs first .. last - 1 of the work items 0 .. items - 1.

    ``torch.get_num_threads()`` threads take part, the calling one among them; it returns when all items are done.

    Raises:
        Exception: What the kernel raised, the first time.
    """
    threads = min(torch.get_num_threads(), items)
    if threads <= 1:
        kernel((0, items), *arguments)
        return
    parts = min(items, threads * _PARTS_PER_THREAD)
    left = itertools.count()  # handed out one by one, whoever asks
    done: SimpleQueue[BaseException | None] = SimpleQueue()

    def work() -> None:
        while (part := next(left)) < parts:
            error = None
            try:
                kernel((part * items // parts, (part + 1) * items // parts), *arguments)
            except BaseException as raised:
                error = raised
            done.put(error)

    _pool.help(work, threads - 1)
    work()
    errors = [error for error in (done.get() for _ in range(parts)) if error is not None]
    if errors:
        raise errors[0]
