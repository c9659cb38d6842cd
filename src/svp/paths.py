"""Where svp keeps files of its own, and how it writes files that survive being killed."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from svp.errors import UnavailableError, WriteError


def home() -> Path:
    """``$SVP_HOME``, or ``~/.cache/svp``: downloaded or hand-placed weights and caches.

    Raises:
        UnavailableError: There is neither.
    """
    try:
        return Path(os.environ.get("SVP_HOME") or Path.home() / ".cache" / "svp").expanduser()
    except RuntimeError as error:
        raise UnavailableError(
            "there is no home directory for downloads and caches (HOME is not set, and this user has none): "
            "set SVP_HOME to a folder that can be written"
        ) from error


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to disk and rename it over `path`.

    Whoever is killed at any moment leaves either the old file or the new one, never half of one. A symbolic link stays, its
    target is replaced. What is no regular file (a pipe, a device) cannot be replaced and is written to directly.

    Raises:
        IsADirectoryError: `path` is a directory.
        WriteError: The disk is full, or may not be written to.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory, expected the name of a file")
    if path.exists() and not path.is_file():
        with writing(path):
            write(path)
        return
    path = path.resolve()
    temporary = temporary_name(path)
    try:
        with writing(path, temporary):
            temporary.unlink(missing_ok=True)
            temporary.touch()
            mode = temporary.stat().st_mode  # as the umask has it: some writers (safetensors) make private files
            write(temporary)
            temporary.chmod(mode)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Turn what fails inside, because a disk is full or may not be written to, into a ``WriteError`` that says how to go on.

    Args:
        path: What is written, for the message.
        temporary: File that is written in its place. PyTorch has an error of its own for all that can fail; whether more can
            be written to this file tells.
    """
    try:
        yield
    except WriteError:
        raise
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else _refusal(error, temporary)
        if number not in _REFUSALS:
            raise
        raise WriteError(f"cannot write {path}: {_REFUSALS[number]}{_room(path)}. {_REMEDY}") from error


def explain(error: OSError) -> str:
    """What an error of the system means, and how to go on, in one line."""
    if isinstance(error, UnavailableError):
        return str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
        path = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else None
        return f"cannot write {path or 'the output'}: {_REFUSALS[error.errno]}{_room(path) if path else ''}. {_REMEDY}"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"{error}: raise the limit (ulimit -n), or let fewer worker processes read images (--num-workers)"
    return str(error)


_REFUSALS = {
    errno.ENOSPC: "no space is left on the disk",
    errno.EDQUOT: "the quota of the disk is used up",
    errno.EFBIG: "files may not be that large",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
}
_REMEDY = "Make room there or name another place"


def _refusal(error: Exception, file: Path | None) -> int | None:
    """The error of the system behind another one that was raised as a file was written; None if there is none."""
    told = re.search(r"\(os error (\d+)\)", str(error))  # as Rust has it, and so safetensors
    if told:
        return int(told[1])
    if file is not None and file.exists():
        try:
            with file.open("ab") as stream:
                stream.write(bytes(2**16))
                stream.flush()
        except OSError as refused:
            return refused.errno
    return None


def _room(path: Path) -> str:
    with suppress(OSError):
        usage = shutil.disk_usage(path.parent)
        return f" ({usage.free / 1e6:.1f} of {usage.total / 1e6:.1f} MB free)"
    return ""


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
