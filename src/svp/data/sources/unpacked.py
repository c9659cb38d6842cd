"""Data sets that come as arrays or archives, written out once as image files: then every tool sees files with names."""

from collections.abc import Callable
from pathlib import Path

from svp.paths import write_atomically


def unpacked(folder: Path, source: str, write: Callable[[Path], None]) -> Path:
    """The folder, filled by `write` unless that was finished before.

    A folder that a killed process left half full is filled again.

    Args:
        source: Where the images come from; kept in the folder.
        write: Writes the image files below the folder it is given; overwrites what is there.
    """
    finished = folder / ".complete"
    if not finished.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write(folder)
        write_atomically(finished, lambda path: path.write_text(source + "\n", encoding="utf-8"))
    return folder
