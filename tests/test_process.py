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


PARENT = """
import sys, time
from svp.process import run_beside
sys.path.insert(0, sys.argv[1])
import os
os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
print(run_beside("endless"), flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_what_runs_beside_ends_with_its_parent(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    # it holds the pipe open for as long as it lives
    (tmp_path / "endless.py").write_text(
        f"import time\nheld = open({str(pipe)!r}, 'w')\nheld.write('!')\nheld.flush()\ntime.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "True\n"
        with pipe.open() as end:
            assert end.read(1) == "!"
            parent.kill()
            assert end.read() == ""  # returns once nobody holds the other end
    finally:
        parent.kill()
        parent.communicate()


ONE_CORE = """
import os
from svp.process import run_beside
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
print(run_beside("this"))
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs an affinity that can be set")
def test_without_a_second_core_nothing_runs_beside() -> None:
    assert subprocess.run([sys.executable, "-c", ONE_CORE], capture_output=True, text=True, check=True).stdout == "False\n"
