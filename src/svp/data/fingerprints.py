"""What stands for files without reading them, in the names of caches and in what caches hold."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

_WHOLE = 4 * 2**20
"""Bytes up to which a file is read whole for `content_fingerprint`."""
_PIECE = 2**20


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


def content_fingerprint(path: Path) -> str:
    """What stands for the bytes of a file wherever it lies: a hash of its size and all of it, or three pieces if it is large.

    Empty for a file that cannot be read.
    """
    try:
        size = path.stat().st_size
        digest = hashlib.blake2b(str(size).encode(), digest_size=12)
        with path.open("rb") as file:
            if size <= _WHOLE:
                digest.update(file.read())
            else:
                for start in (0, (size - _PIECE) // 2, size - _PIECE):
                    file.seek(start)
                    digest.update(file.read(_PIECE))
        return digest.hexdigest()
    except (OSError, ValueError):
        return ""


def content_fingerprints(paths: Sequence[Path]) -> list[str]:
    """`content_fingerprint` of each file, worked out in threads."""
    from svp.data.pipeline.threads import in_threads

    return list(in_threads(content_fingerprint, paths))
