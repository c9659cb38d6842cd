"""Settings of the ``svp`` command's process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = """
import resource, sys
import numpy as np
from svp.process import prepare
if sys.argv[1] == "prepared":
    prepare()
np.ones(2**23)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    np.ones(2**23)  # 64 MB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux" or not os.confstr("CS_GNU_LIBC_VERSION"), reason="glibc alone has the setting")
def test_freed_memory_is_kept() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    faults = {
        mode: int(
            subprocess.run([sys.executable, "-c", FAULTS, mode], env=environment, capture_output=True, check=True).stdout
        )
        for mode in ("plain", "prepared")
    }
    assert faults["prepared"] < 100 < faults["plain"], faults


FROZEN = """
import atexit, gc
atexit.register(lambda: print(gc.get_freeze_count() > 0))  # called last
from svp.process import prepare
prepare()
print(gc.get_freeze_count() > 0)
"""


def test_garbage_is_not_looked_for_at_the_end() -> None:
    done = subprocess.run([sys.executable, "-c", FROZEN], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


PARENT = """
import sys, time
from pathlib import Path
from svp.process import run_beside
run_beside(["endless", "7"], Path(sys.argv[1]) / "log", threads=3)
time.sleep(600)
"""
WITH_A_COMMAND = """
import svp.commands
svp.commands.COMMANDS["endless"] = "holds a pipe open for as long as it lives"
svp.commands.__path__.append({folder!r})
"""
ENDLESS = """
import os, time
def run(argv):
    held = open({pipe!r}, "w")
    print(argv, os.environ["OMP_NUM_THREADS"], file=held, flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_what_runs_beside_ends_with_its_parent(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "sitecustomize.py").write_text(WITH_A_COMMAND.format(folder=str(tmp_path)))  # Python imports it at its start
    (tmp_path / "endless.py").write_text(ENDLESS.format(pipe=str(pipe)))
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], env={**os.environ, "PYTHONPATH": path})
    try:
        with pipe.open() as end:
            assert end.readline() == "['7'] 3\n"
            parent.kill()
            assert end.read() == ""  # returns once nobody holds the other end
    finally:
        parent.kill()
        parent.wait()


ONE_CORE = """
import os
from pathlib import Path
from svp.process import run_beside
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
print(run_beside(["train"], Path("never"), 1))
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs an affinity that can be set")
def test_without_a_second_core_nothing_runs_beside() -> None:
    assert subprocess.run([sys.executable, "-c", ONE_CORE], capture_output=True, text=True, check=True).stdout == "None\n"
