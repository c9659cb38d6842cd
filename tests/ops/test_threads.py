"""How work items reach threads; the numbers that come of it are compared in the tests of the kernels."""

from __future__ import annotations

import gc
import threading
import time
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from svp.ops import threads as kernel_threads
from svp.ops.threads import run_kernel


class Record:
    """A kernel that notes what it is called with; `wait` seconds per item, which sleep and so let other threads run."""

    def __init__(self, wait: float = 0.0) -> None:
        self.wait = wait
        self.items: list[int] = []
        self.threads: set[int] = set()

    def __call__(self, items: tuple[int, int], *arguments: object) -> None:
        self.threads.add(threading.get_ident())
        for item in range(*items):
            time.sleep(self.wait)
            self.items.append(item)


@given(items=st.integers(0, 40), threads=st.integers(1, 5))
def test_every_item_once(items: int, threads: int) -> None:
    torch.set_num_threads(threads)
    kernel = Record()
    run_kernel(kernel, items)
    assert sorted(kernel.items) == list(range(items))


def test_as_many_threads_as_pytorch_has() -> None:
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        kernel = Record(wait=0.02)
        run_kernel(kernel, 12)
        assert len(kernel.threads) == threads
        assert threading.get_ident() in kernel.threads


def test_a_thread_that_is_held_up_leaves_the_rest_to_the_others() -> None:
    first = threading.get_ident()
    share = {True: 0, False: 0}

    def kernel(items: tuple[int, int]) -> None:
        mine = threading.get_ident() == first
        time.sleep(0.2 if mine else 0.01)
        share[mine] += 1

    run_kernel(kernel, 8)
    assert share[False] > share[True] > 0


def test_helpers_that_are_busy_elsewhere_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_threads, "_pool", kernel_threads._Pool())  # of one helper
    busy, free = threading.Event(), threading.Event()
    own = threading.get_ident()

    def hold(items: tuple[int, int]) -> None:
        if threading.current_thread().name.startswith("svp-kernel"):
            busy.set()
            free.wait(20)
        elif threading.get_ident() != own:
            busy.wait(20)

    holder = threading.Thread(target=run_kernel, args=(hold, 2))
    holder.start()
    try:
        assert busy.wait(20)
        kernel = Record()
        run_kernel(kernel, 10)
        assert sorted(kernel.items) == list(range(10))
        assert kernel.threads == {own}
    finally:
        free.set()
        holder.join(20)


def test_an_error_of_any_thread_reaches_the_caller_when_all_have_ended() -> None:
    running = []

    def kernel(items: tuple[int, int]) -> None:
        running.append(items)
        time.sleep(0.01)
        running.remove(items)
        if items[0] == 3:
            raise ValueError("item 3")

    with pytest.raises(ValueError, match="item 3"):
        run_kernel(kernel, 8)
    assert not running
    kernel_after = Record()
    run_kernel(kernel_after, 8)
    assert len(kernel_after.items) == 8


def test_idle_threads_keep_nothing() -> None:
    class Argument:
        pass

    argument = Argument()
    gone = weakref.ref(argument)
    run_kernel(Record(), 8, argument)
    del argument
    for _ in range(100):
        gc.collect()
        if gone() is None:
            return
        time.sleep(0.05)
    raise AssertionError("an idle thread holds the arguments of the last kernel")
