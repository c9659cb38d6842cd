"""Files that survive a kill, and what is said where none can be written."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from svp.errors import SvpError, WriteError
from svp.paths import explain, home, write_atomically
from tests.processes import printed_by

FULL = """
import resource, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from svp.errors import WriteError
from svp.paths import write_atomically
resource.setrlimit(resource.RLIMIT_FSIZE, (2**17, 2**17))  # as if the disk were full
tensor = torch.zeros(10**6)
for number, write in enumerate((
    lambda path: path.write_text("x" * 10**6),
    lambda path: torch.save(tensor, path),
    lambda path: save_file({"x": tensor}, path),
)):
    try:
        write_atomically(Path(sys.argv[1]) / f"{number}", write)
    except WriteError as error:
        print(error)
try:
    write_atomically(Path(sys.argv[1]) / "bug", lambda path: 1 / 0)
except ZeroDivisionError:
    print("a bug stays one")
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limit")
def test_a_full_disk_is_told_whoever_writes(tmp_path: Path) -> None:
    (tmp_path / "0").write_text("old")
    *lines, last = printed_by(FULL, str(tmp_path)).splitlines()
    for number, line in enumerate(lines):
        assert line.startswith(f"cannot write {tmp_path / str(number)}: files may not be that large (")
        assert line.endswith("MB free). Make room there or name another place")
    assert len(lines) == 3
    assert last == "a bug stays one"
    assert [path.name for path in tmp_path.iterdir()] == ["0"]
    assert (tmp_path / "0").read_text() == "old"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux alone has it")
def test_a_device_that_is_full(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="cannot write /dev/full: no space is left on the disk"):
        write_atomically(Path("/dev/full"), lambda path: path.write_text("x"))


def test_errors_of_the_system_say_how_to_go_on(tmp_path: Path) -> None:
    full = explain(OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "file")))
    assert full.startswith(f"cannot write {tmp_path / 'file'}: no space is left on the disk (")
    assert "MB free). Make room there or name another place" in full
    assert explain(OSError(errno.ENOSPC, "No space left on device")).startswith("cannot write the output: no space")
    assert "the file system is read-only" in explain(OSError(errno.EROFS, "Read-only file system", b"/ro/file"))
    assert "ulimit -n" in explain(OSError(errno.EMFILE, "Too many open files", "a.jpg"))
    assert explain(FileNotFoundError(errno.ENOENT, "No such file", "a.jpg")) == "[Errno 2] No such file: 'a.jpg'"


def test_no_home_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pwd = pytest.importorskip("pwd")

    def unknown(number: int) -> None:
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.delenv("HOME", raising=False)
    assert home() == Path(os.environ["SVP_HOME"])
    monkeypatch.delenv("SVP_HOME")
    with pytest.raises(SvpError, match="set SVP_HOME to a folder that can be written"):
        home()
