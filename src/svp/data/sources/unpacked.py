"""Data sets that come as arrays or archives, written out once as image files: then every tool sees files with names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

from svp.data.sources.folder import FolderSource
from svp.data.splits import Parts, Split
from svp.paths import write_atomically


class UnpackedSource(ABC):
    """A `Source` that becomes a folder of images when it is first read."""

    @abstractmethod
    def folder(self) -> Path:
        """The folder, made unless that was done before."""

    def parts(self, seed: int = 0) -> Parts:
        """The parts that the folder brings."""
        return FolderSource(self.folder()).parts(seed)

    def labelled(self, class_names: Sequence[str]) -> Split:
        """The class folders in the folder's test part if it has one, else in the folder itself."""
        return FolderSource(self.folder()).labelled(class_names)


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
