"""The images to predict, one after the other: millions of them need no memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

from svp.data.sources.listing import describe, files_below, is_image
from svp.data.splits import DataError, LeftOut, describe_left_out

_MOST_LEFT_OUT = 1000


class ImageList:
    """Images and folders of images as one sequence of files, listed anew whenever it is iterated.

    A file counts as given whatever its suffix, a folder stands for all images below it, sorted. Nothing is listed twice. Only
    the names in the folders that are being read are held.

    Args:
        paths: Images and folders.

    Attributes:
        left_out: What lies in the folders and is left out, as far as it was listed; no more than the first 1,000.

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
                hidden: list[LeftOut] = []
                files = list(files_below(path, left_out=hidden))
                raise DataError("\n".join([f"{path}: no images; {describe(files)}.", *describe_left_out(hidden, path)]))
        self.left_out: tuple[LeftOut, ...] = tuple(islice(chain.from_iterable(map(_left_out, self.paths)), _MOST_LEFT_OUT))
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


def _left_out(path: Path) -> Iterator[LeftOut]:
    beside: list[LeftOut] = []
    for file in files_below(path, left_out=beside) if path.is_dir() else ():
        if not is_image(file):
            yield LeftOut(file)
        while beside:
            yield beside.pop()
    yield from beside


def _images_of(path: Path) -> Iterator[Path]:
    return filter(is_image, files_below(path)) if path.is_dir() else iter((path,))


def _overlap(paths: Sequence[Path]) -> bool:
    """Whether a path is given twice, or lies below another one."""
    given = {path.absolute() for path in paths}
    return len(given) < len(paths) or any(not given.isdisjoint(path.absolute().parents) for path in paths)
