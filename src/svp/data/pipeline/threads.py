"""The one pool of threads that reads images."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from svp.limits import usable_cpus

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(function: Callable[[Item], Result], items: Iterable[Item], ahead: int = 64) -> Iterator[Result]:
    """The results of `function` for the items, in their order, worked out in threads.

    Pillow decodes without the interpreter lock, so that threads are enough.

    Args:
        function: Called with one item.
        items: What is to be done; they are taken as they are needed.
        ahead: Number of items that may be under way or done and not yet asked for: memory does not grow with all of them.
    """
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(min(8, usable_cpus()))
    try:
        for item in items:
            if len(waiting) == ahead:
                yield waiting.popleft().result()
            waiting.append(pool.submit(function, item))
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
