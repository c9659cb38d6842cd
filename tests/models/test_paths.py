"""Files that survive being killed, under the name, the mode and the kind that the caller expects."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from svp.paths import write_atomically


def write(path: Path, text: str = "new") -> None:
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_mode_follows_the_umask(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "x.safetensors", lambda path: save_file({"x": torch.zeros(1)}, path))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x.safetensors").stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("exists", [False, True])
def test_link_stays_a_link(exists: bool, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "target", tmp_path / "link"
    if exists:
        target.write_text("old")
    link.symlink_to(target)
    write(link)
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert [path.name for path in target.parent.iterdir()] == ["target"]


def test_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="is a directory, expected the name of a file"):
        write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_pipe_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    write(pipe)
    reader.join(timeout=100)
    assert read == ["new"]
    assert pipe.is_fifo()


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")
    with pytest.raises(ZeroDivisionError):
        write_atomically(tmp_path / "x", lambda path: path.write_text(f"half {1 // 0}"))
    assert (tmp_path / "x").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
