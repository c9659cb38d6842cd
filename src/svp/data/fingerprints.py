"""What stands for files without reading them, in the names of caches and in what caches hold."""

import hashlib
from pathlib import Path


def file_state(path: Path) -> tuple[int, ...]:
    """Size in bytes and time of change in nanoseconds; empty for an absent file."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_size, status.st_mtime_ns


def state_text(path: Path) -> str:
    """`file_state` as text."""
    return " ".join(map(str, file_state(path))) or "absent"


def fingerprint(text: str, digits: int = 24) -> str:
    """The first hexadecimal digits of the SHA-256 of a text that may hold any path."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:digits]
