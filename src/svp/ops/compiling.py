"""How the CPU kernels are compiled. Importing this module imports Numba."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock
from numba import njit

from svp.ops.collector import collector_paused

OPTIONS: dict[str, Any] = dict(cache=True, nogil=True, boundscheck=False, error_model="numpy")
"""Options of every function."""

INLINED: dict[str, Any] = dict(OPTIONS, inline="always")
"""Options of a kernel's body, which is compiled where it is called and not by itself: compiling takes a quarter less time."""


_PATIENCE = 120.0  # seconds; all kernels of a training step compile in 24 on two cores


def kernel(**options: Any) -> Callable[[Callable[..., None]], Any]:
    """``numba.njit`` for what the host calls, compiled by one process after the other.

    Numba's cache has no lock. Of processes that meet an empty one, each would compile for itself, and two that write different
    signatures of a function in the same moment may leave its index naming the wrong machine code. In turns, the second reads
    what the first has written; one that has waited two minutes compiles all the same.

    Args:
        **options: Of ``njit``, over ``OPTIONS``.
    """

    def decorate(function: Callable[..., None]) -> Any:
        dispatcher = njit(**(OPTIONS | options))(function)
        compile_now = dispatcher.compile

        def compile_in_turn(signature: Any) -> Any:
            with _turn(Path(dispatcher.stats.cache_path)), collector_paused():
                return compile_now(signature)

        dispatcher.compile = compile_in_turn
        return dispatcher

    return decorate


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    lock = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "svp-kernels.lock")
        lock.acquire(timeout=_PATIENCE)
    # a folder that cannot be written, a file system without locks, or a turn that does not end (Timeout is an OSError)
    except (OSError, NotImplementedError):
        lock = None
    try:
        yield
    finally:
        if lock is not None:
            lock.release()
