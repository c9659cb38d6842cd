"""The files that the paths of a table mean."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from os.path import normpath
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath

from svp.data.sources.names import find_file
from svp.data.sources.table_text import TableText


class FileFinder:
    """Finds the file that a cell of the path column means.

    Paths of another machine (absolute ones, of which none is there) are looked up below the table's folder or the data root,
    if without their first folders all of them are found there.
    """

    def __init__(self, file: Path, base: Path | None, text: TableText, column: int) -> None:
        # resolved, as a resumed run has it, which knows the table by its resolved path
        self.bases = [file.resolve().parent, *([base.expanduser().resolve()] if base is not None else [])]
        self.moved: tuple[int, Path] | None = None
        cells = [cells[column].strip() for _, cells in text.rows if column < len(cells)]
        pure = [path for path in map(_foreign, cells) if path is not None]
        if pure and len(pure) == sum(map(bool, cells)) and not any(map(_exists, cells)):
            self.moved = self._find_prefix(pure)

    def _find_prefix(self, paths: Sequence[PurePath]) -> tuple[int, Path] | None:
        shared = os.path.commonpath([PurePosixPath(*path.parts[1:-1]).as_posix() or "." for path in paths])
        most = 1 + len([part for part in PurePosixPath(shared).parts if part != "."])
        for cut in range(1, most + 1):
            for base in self.bases:
                if all(existing(base.joinpath(*path.parts[cut:])) for path in paths):
                    return cut, base
        return None

    def find(self, cell: str) -> Path:
        """The file, or where it should be."""
        foreign = _foreign(cell.strip()) if self.moved else None
        if self.moved and foreign is not None:
            cut, base = self.moved
            path = base.joinpath(*foreign.parts[cut:])
            return existing(path) or path
        tried = [Path(normpath(base / _expanded(name))) for name in _spellings(cell) for base in self.bases]
        return next(filter(None, map(existing, tried)), tried[0])


def _spellings(cell: str) -> Iterator[str]:
    yield cell
    if cell.strip() != cell:
        yield cell.strip()
    if "\\" in cell:
        yield cell.strip().replace("\\", "/")


def _expanded(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError:  # no such user
        return Path(name)


def existing(path: Path) -> Path | None:
    """The file of this path; None if there is none, or if none can have it."""
    try:
        return find_file(path)
    except (OSError, ValueError):  # longer than a path may be, say
        return None


def _exists(cell: str) -> bool:
    return existing(Path(cell)) is not None


def _foreign(cell: str) -> PurePath | None:
    """An absolute path, of this system or of Windows; None for a relative one."""
    windows = PureWindowsPath(cell)
    if windows.drive and windows.root:
        return windows
    posix = PurePosixPath(cell)
    return posix if posix.is_absolute() else None
