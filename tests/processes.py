"""Processes for tests, forked by a server that has imported what takes seconds to import.

Tests of a start (what is imported, which variables are read then) need a true one, as `subprocess` makes it.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_CONTEXT: Any = multiprocessing.get_context("spawn" if os.name == "nt" else "forkserver")
_CONTEXT.set_forkserver_preload(
    ["svp.studies", "svp.commands.train", "svp.commands.predict", "torch.distributed.run", "tests.small_model"]
)


class Python:
    """A running ``python WORDS``.

    Args:
        words: ``-m`` and a module, or ``-c`` and code, then arguments.
        out: File for what it prints; what goes to stderr is beside it.
        environment: Its variables; those of this process if None.
    """

    def __init__(self, words: Sequence[str], out: Path, environment: Mapping[str, str] | None = None) -> None:
        self._out, self._err = out, out.with_name(f"{out.name}.err")
        variables = dict(os.environ if environment is None else environment)
        for file in (self._out, self._err):
            file.touch()
        self._process = _CONTEXT.Process(target=_run, args=([*words], variables, str(self._out), str(self._err)))
        self._process.start()
        atexit.register(self._end)  # or Python, which ends last, would wait for what a failed test left

    def _end(self) -> None:
        if self._process.exitcode is None:
            self._process.kill()

    @property
    def output(self) -> str:
        return self._out.read_text(encoding="utf-8")

    @property
    def errors(self) -> str:
        return self._err.read_text(encoding="utf-8")

    def poll(self) -> int | None:
        """Its exit code, or the signal that ended it as a negative number; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float = 250) -> int:
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            self._process.kill()
            raise TimeoutError(f"still running after {timeout} s: {self.output} {self.errors}")
        return code

    def send_signal(self, number: signal.Signals) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)


def printed_by(code: str, *arguments: str, **environment: str) -> str:
    """What ``python -c CODE ARGUMENTS`` prints, with these variables besides those of this process."""
    with tempfile.TemporaryDirectory() as folder:
        called = Python(["-c", code, *arguments], Path(folder) / "shown", os.environ | environment)
        assert called.wait() == 0, called.errors
        return called.output


def torchrun(words: Sequence[str], out: Path) -> Python:
    """``torchrun --standalone --nproc-per-node 2`` of the same words as for `Python`, its processes forked as well."""
    return Python(["-c", "import sys; from tests.processes import _launch; _launch(sys.argv[1:])", *words], out)


def _launch(words: list[str]) -> None:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        run_id="tests",
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        max_restarts=0,
        monitor_interval=0.05,
        start_method="fork",
    )
    try:
        elastic_launch(config, _act)(words)
    except ChildFailedError as error:
        sys.exit(str(error))


def _run(words: list[str], environment: dict[str, str], out: str, err: str) -> None:
    import torch

    for path, descriptor in ((out, 1), (err, 2)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(file, descriptor)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # chosen once, by the variables of the server
    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS", torch.get_num_threads())))  # read when it was imported
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _act(words)


def _act(words: list[str]) -> None:
    kind, what, *arguments = words
    if kind == "-m":
        sys.argv = [what, *arguments]
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        sys.argv = ["-c", *arguments]
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
