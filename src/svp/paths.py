"""Where svp keeps files of its own, and how it writes files that survive being killed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path


def home() -> Path:
    """``$SVP_HOME``, or ``~/.cache/svp``: downloaded or hand-placed weights and caches."""
    return Path(os.environ.get("SVP_HOME") or Path.home() / ".cache" / "svp").expanduser()


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to disk and rename it over `path`.

    Whoever is killed at any moment leaves either the old file or the new one, never half of one. A symbolic link stays, its
    target is replaced. What is no regular file (a pipe, a device) cannot be replaced and is written to directly.

    Raises:
        IsADirectoryError: `path` is a directory.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory, expected the name of a file")
    if path.exists() and not path.is_file():
        write(path)
        return
    path = path.resolve()
    temporary = temporary_name(path)
    try:
        temporary.unlink(missing_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode  # as the umask has it: some writers (safetensors) make private files
        write(temporary)
        temporary.chmod(mode)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_name(path: Path) -> Path:
    """The name beside `path` of what this process will rename to it: ``.NAME.PID.tmp``."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def is_temporary(path: Path) -> bool:
    """Whether the name is one of `temporary_name`."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders that killed processes left in `folder`."""
    import psutil

    for path in filter(is_temporary, folder.iterdir()):
        pid = path.name.split(".")[-2]
        if pid.isdigit() and psutil.pid_exists(int(pid)):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
