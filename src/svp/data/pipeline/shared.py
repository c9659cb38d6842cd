"""What the runs of one process share, within a share of its memory: the oldest goes first."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

import psutil

T = TypeVar("T")

_SHARE = 0.25
"""Share of the memory available at first that things may take together."""


class Shared(Generic[T]):
    """Things by key, made once.

    Args:
        nbytes: Size of a thing in bytes.
        limit: Most bytes that are kept; a quarter of the available memory, divided by `processes`, if None.
        processes: How many processes of this machine keep things, each its own.
    """

    def __init__(self, nbytes: Callable[[T], int], limit: int | None = None, processes: int = 1) -> None:
        self._nbytes = nbytes
        self._limit = int(_SHARE * psutil.virtual_memory().available / processes) if limit is None else limit
        self._things: dict[Hashable, T] = {}
        self._size = 0
        self._lock = Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The thing behind `key`, made if it is not there; threads that ask for it at the same time may each make it."""
        with self._lock:
            if key in self._things:
                self._things[key] = self._things.pop(key)  # the newest again
                return self._things[key]
        thing = make()
        with self._lock:
            if key not in self._things and self._nbytes(thing) <= self._limit:
                self._things[key] = thing
                self._size += self._nbytes(thing)
            while self._size > self._limit:
                self._size -= self._nbytes(self._things.pop(next(iter(self._things))))
        return thing
