"""Kernels are compiled once, however many processes ask for them, and again when their sources have changed."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

import svp
from svp.ops import compiling
from svp.ops.compiling import kernel
from tests.processes import Python, printed_by

CODE = """
import sys, time, torch
from pathlib import Path
torch.set_num_threads(2)
from numba.core import event
from svp.ops.causal_conv1d import cpu_numba as kernels
from svp.ops.causal_conv1d.reference import Inputs
x, weight = torch.randn(2, 4, 16), torch.randn(16, 4)
print("ready", flush=True)
while not Path(sys.argv[1]).exists():
    time.sleep(0.001)
with event.install_recorder("numba:compile") as compiled:
    y = kernels.forward(Inputs(x, weight, None), None, False)
    kernels.forward(Inputs(x[:1], weight, None), None, False)
torch.testing.assert_close(y, torch.nn.functional.conv1d(x.mT, weight[:, None], padding=3, groups=16)[..., :4].mT)
stats = kernels._forward.loop.stats
print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()), bool(compiled.buffer))
"""


def test_processes_compile_in_turn(tmp_path: Path) -> None:
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    start = tmp_path / "start"
    processes = [Python(["-c", CODE, str(start)], tmp_path / str(number), environment) for number in range(2)]
    while not all(process.output for process in processes):
        assert all(process.poll() is None for process in processes), [process.errors for process in processes]
        time.sleep(0.01)
    start.touch()
    assert [process.wait() for process in processes] == [0, 0], [process.errors for process in processes]
    # hits and misses: one process has compiled, the other has read
    assert sorted(process.output.split()[1:3] for process in processes) == [["0", "1"], ["1", "0"]]
    third = printed_by(CODE, str(start), NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    assert third.split()[1:] == ["1", "0", "False"]  # nothing, not even a function that a kernel calls


def test_a_file_system_without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: FileLock, *arguments: Any, **options: Any) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr(FileLock, "acquire", refuse)

    @kernel
    def note(item: int) -> None:
        item + 1

    note(1)
    assert len(note.loop.signatures) == 1


USER = """
import sys
import numpy as np
from svp.ops.compiling import compiled_for, kernel
from svp.ops.rows import LANES
from svp.ops.simd import exp2, exp2_by_bits, load, sigmoid, store

@kernel
def apply(item, x, y):
    store(y, item * LANES, sigmoid(load(x, item * LANES)) + exp2(load(x, item * LANES)))

@compiled_for("void(float32[::1])")
def double(x):
    for i in range(x.size):
        x[i] *= 2

x, y = np.linspace(-3, 3, LANES, dtype=np.float32), np.empty(LANES, np.float32)
apply(1, x, y)
expected = (1 / (1 + np.exp(-x)) + np.exp2(x)).astype(np.float32)
double(x)
np.testing.assert_array_equal(x, np.linspace(-6, 6, LANES, dtype=np.float32))
hits = sum(apply.loop.stats.cache_hits.values())
wide = not hits and any("zmm" in text for text in apply.loop.inspect_asm().values())
print(np.allclose(y, expected), hits, wide, exp2 is exp2_by_bits, apply.loop.stats.cache_path)
"""


def run_user(folder: Path, **environment: str) -> tuple[list[str], str]:
    """Words printed by USER, a file in `folder` that has kernels of its own, and what went to stderr."""
    (folder / "user.py").write_text(USER, encoding="utf-8")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    done = subprocess.run(
        [sys.executable, "user.py"], cwd=folder, env=inherited | environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split(), done.stderr


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A folder with a copy of the sources of the ops."""
    package = Path(svp.__file__).parent
    shutil.copytree(package / "ops", tmp_path / "svp" / "ops", ignore=shutil.ignore_patterns("__pycache__"))
    for file in package.glob("*.py"):
        shutil.copy(file, tmp_path / "svp")
    return tmp_path


OF_A_COPY = """
import sys
for name in [name for name in sys.modules if name.split(".")[0] in ("svp", "timm")]:
    del sys.modules[name]
sys.path.insert(0, sys.argv[1])
import runpy
runpy.run_path(sys.argv[1] + "/user.py")
"""


def test_an_edit_in_a_file_that_a_kernel_calls_into_is_seen(sources: Path, tmp_path: Path) -> None:
    (sources / "user.py").write_text(USER, encoding="utf-8")
    (sources / "svp" / "ops" / "__init__.py").write_text("", encoding="utf-8")  # PyTorch knows its ops already

    def printed() -> list[str]:
        return printed_by(OF_A_COPY, str(sources), NUMBA_CACHE_DIR=str(tmp_path / "cache")).split()

    right, *_, folder = printed()
    assert right == "True"
    simd = sources / "svp" / "ops" / "simd.py"
    text = simd.read_text(encoding="utf-8")
    simd.write_text(text.replace("splat(_ONE) / (", "splat(_ONE + _ONE) / ("), encoding="utf-8")
    assert simd.read_text(encoding="utf-8") != text
    right, hits, *_, another_folder = printed()
    assert (right, hits) == ("False", "0")
    assert another_folder != folder


def test_no_place_to_write(sources: Path, tmp_path: Path) -> None:
    """Files stand where folders would be made, which stops the superuser too."""
    (sources / "svp" / "ops" / "__pycache__").touch()
    (tmp_path / "file").touch()
    (tmp_path / "temporary").mkdir()
    words, errors = run_user(
        sources,
        PYTHONPATH=str(sources),
        SVP_HOME=str(tmp_path / "file" / "home"),
        NUMBA_CACHE_DIR=str(tmp_path / "file" / "cache"),
        TMPDIR=str(tmp_path / "temporary"),
    )
    assert words[0] == "True"
    assert words[-1].startswith(str(tmp_path / "temporary"))
    assert errors.count("set NUMBA_CACHE_DIR to a folder that can be written") == 1
    assert not list((tmp_path / "temporary").glob("svp-kernels-*"))


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"),
    reason="needs AVX2",
)
@pytest.mark.exhaustive
def test_processors_with_and_without_avx512_share_a_cache(tmp_path: Path) -> None:
    places = {"PYTHONPATH": str(Path(svp.__file__).parents[1]), "NUMBA_CACHE_DIR": str(tmp_path)}
    older = {"NUMBA_CPU_NAME": "x86-64-v3", "NUMBA_CPU_FEATURES": ""}
    here = run_user(tmp_path, **places)[0]
    assert here[:2] == ["True", "0"]
    assert run_user(tmp_path, **places, **older)[0][:4] == ["True", "0", "False", "True"]
    right, hits, *_, folder = run_user(tmp_path, **places)[0]
    assert (right, hits, folder) == ("True", "1", here[-1])


def test_folders_that_nobody_uses_are_removed(tmp_path: Path) -> None:
    used, recent, old, other = (tmp_path / name for name in ("svp-kernels-0", "svp-kernels-1", "svp-kernels-2", "numba"))
    for folder in (used, recent, old, other):
        folder.mkdir()
        (folder / "kernel.nbc").touch()
    for folder in (used, old, other):
        os.utime(folder, (0, time.time() - compiling._UNUSED - 60))
    compiling._remove_unused(tmp_path, used)
    assert sorted(tmp_path.iterdir()) == [other, used, recent]
