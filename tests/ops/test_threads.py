"""Items of a kernel are shared out to the threads of PyTorch, each to one of them; exceptions come back."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
import traceback

import numpy as np
import pytest
import torch

from svp.ops import threads
from svp.ops.compiling import kernel
from tests.processes import printed_by

TEAM = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
RUN = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@kernel
def count(item, counts):  # type: ignore[no-untyped-def]
    if item == counts.size:
        raise ValueError("no such item")
    counts[item] += item + 1


@pytest.mark.parametrize("number", [1, 2, 5])
def test_every_item_once(number: int, two_threads: None) -> None:
    torch.set_num_threads(number)
    counts = np.zeros(1000, np.int64)
    count(1000, counts)
    np.testing.assert_array_equal(counts, np.arange(1, 1001))
    with pytest.raises(ValueError, match="no such item"):
        count(1001, counts)
    count(1000, counts)  # a team that failed does not hinder the next


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_second_openmp_beside_the_one_of_pytorch() -> None:
    code = (
        "import numpy as np, torch; torch.set_num_threads(2)\n"
        "found = lambda: {line.split()[-1] for line in open('/proc/self/maps') if 'libgomp' in line or 'omp5' in line}\n"
        "before = found()\n"
        "from tests.ops.test_threads import count; count(4, np.zeros(4, np.int64))\n"
        "print(len(before), found() == before)"
    )
    assert printed_by(code).split()[1] == "True"


def test_a_team_of_python() -> None:
    seen, all_here = [], threading.Barrier(2)

    @RUN
    def run(data: int) -> None:
        seen.append((data, threading.get_ident()))
        all_here.wait(60)

    threads.team_in_python(ctypes.cast(run, ctypes.c_void_p), 7, 2, 0)
    assert [data for data, _ in seen] == [7, 7]
    assert len({thread for _, thread in seen}) == 2


def names_of_calls(thread: int) -> list[str]:
    return [frame.f_code.co_name for frame, _ in traceback.walk_stack(sys._current_frames()[thread])]


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="sends a signal to a thread")
def test_an_interrupted_team_of_python_waits_for_all() -> None:
    main, all_here, done = threading.get_ident(), threading.Barrier(2), []

    @RUN
    def run(data: int) -> None:
        if threading.get_ident() == main:
            all_here.wait(60)
            return
        all_here.wait(60)
        while "result" not in names_of_calls(main):  # where it waits for this thread
            time.sleep(0.01)
        signal.pthread_kill(main, signal.SIGINT)
        time.sleep(0.1)
        done.append(data)

    threads.team_in_python(ctypes.cast(run, ctypes.c_void_p), 7, 2, 0)
    assert done == [7]
    with pytest.raises(KeyboardInterrupt):
        threads.raise_late()
    threads.raise_late()


def test_a_team_of_python_without_further_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    seen = []

    @RUN
    def run(data: int) -> None:
        seen.append(data)

    threads._pool.cache_clear()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    threads.team_in_python(ctypes.cast(run, ctypes.c_void_p), 7, 3, 0)
    threads.raise_late()
    assert seen == [7]
    monkeypatch.undo()
    test_a_team_of_python()


def test_the_team_runs_on_as_many_threads_as_asked_for() -> None:
    seen, all_here = [], threading.Barrier(3)

    @RUN
    def run(data: int) -> None:
        seen.append(data)
        all_here.wait(60)

    TEAM(threads.team_address())(ctypes.cast(run, ctypes.c_void_p), 7, 3, 0)
    assert seen == [7, 7, 7]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_forked_process_has_one_thread() -> None:
    child = os.fork()
    if child == 0:
        os._exit(threads.kernel_threads())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
