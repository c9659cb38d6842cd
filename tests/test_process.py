"""Settings of the ``svp`` command's process."""

from __future__ import annotations

import os
import subprocess
import sys

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
