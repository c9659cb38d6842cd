"""Where svp keeps files of its own, and how it writes files that survive being killed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def home() -> Path:
    """``$SVP_HOME``, or ``~/.cache/svp``: downloaded or hand-placed weights and caches."""
    return Path(os.environ.get("SVP_HOME") or Path.home() / ".cache" / "svp").expanduser()


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to disk and rename it over `path`.

    Whoever is killed at any moment leaves either the old file or the new one, never half of one.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
