"""The images to predict, one after the other: millions of them need no memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from svp.data.sources.listing import describe, files_below, is_image
from svp.data.splits import DataError


class ImageList:
    """Images and folders of images as one sequence of files, listed anew whenever it is iterated.

    A file counts as given whatever its suffix, a folder stands for all images below it, sorted. Nothing is listed twice. Only
    the names in the folders that are being read are held.

    Args:
        paths: Images and folders.

    Raises:
        DataError: A path does not exist, or a folder has no image below it.
    """

    def __init__(self, paths: Sequence[str | Path]) -> None:
        self.paths = [Path(path).expanduser() for path in paths]
        self._overlap = _overlap(self.paths)
        for path in self.paths:
            if not path.exists():
                raise DataError(f"{path}: no such file or folder.")
            if path.is_dir() and next(_images_of(path), None) is None:
                raise DataError(f"{path}: no images; {describe(list(files_below(path)))}.")
        self._count = sum(1 for _ in self)

    def __len__(self) -> int:
        """How many there were when the list was made."""
        return self._count

    def __iter__(self) -> Iterator[Path]:
        seen: set[Path] = set()  # absolute paths; needed only where one path given lies below another
        for path in self.paths:
            for image in _images_of(path):
                if self._overlap:
                    absolute = image.absolute()
                    if absolute in seen:
                        continue
                    seen.add(absolute)
                yield image


def _images_of(path: Path) -> Iterator[Path]:
    return filter(is_image, files_below(path)) if path.is_dir() else iter((path,))


def _overlap(paths: Sequence[Path]) -> bool:
    """Whether a path is given twice, or lies below another one."""
    given = {path.absolute() for path in paths}
    return len(given) < len(paths) or any(not given.isdisjoint(path.absolute().parents) for path in paths)
