"""Which files of a folder are images, and what else lies there."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from svp.data.pipeline.formats import EXPECTED_IMAGES, IMAGE_SUFFIXES, looks_like_image
from svp.data.splits import DataError, enumerate_some

ARCHIVE_SUFFIXES = frozenset({".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar"})
_LITTER = frozenset({"thumbs.db", "desktop.ini", "__macosx"})  # written by the system, of no interest to anyone


def find_images(paths: Sequence[str | Path]) -> list[Path]:
    """List the images to predict: a file as given whatever its suffix, a folder by all images below it, sorted.

    Nothing is listed twice.

    Raises:
        DataError: A path does not exist, or a folder has no image below it.
    """
    found: dict[Path, Path] = {}  # by absolute path
    for path in (Path(path).expanduser() for path in paths):
        if path.is_dir():
            files = list(files_below(path))
            images = [file for file in files if is_image(file)]
            if not images:
                raise DataError(f"{path}: no images; {describe(files)}.")
        elif path.exists():
            images = [path]
        else:
            raise DataError(f"{path}: no such file or folder.")
        for image in images:
            found.setdefault(image.absolute(), image)
    return list(found.values())


def entries(folder: Path) -> list[Path]:
    """What the folder holds, sorted, without hidden entries and litter."""
    return [folder / name for name in _names(folder)]


def _names(folder: Path) -> list[str]:
    try:
        found = [entry.name for entry in os.scandir(folder)]
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror}).") from error
    return sorted(name for name in found if not name.startswith(".") and name.lower() not in _LITTER)


def files_below(folder: Path, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """Every file below, links followed but no link back to a folder above. A dangling link counts as a file."""
    above |= {folder.resolve()}
    for name in _names(folder):  # names alone: there may be millions
        entry = folder / name
        if not entry.is_dir():
            yield entry
        elif entry.resolve() not in above:
            yield from files_below(entry, above)


def is_image(path: Path) -> bool:
    """Whether the suffix is one of `IMAGE_SUFFIXES`, in any case, or there is none and the first bytes are an image's."""
    return path.suffix.lower() in IMAGE_SUFFIXES or (not path.suffix and looks_like_image(path))


def describe(files: Sequence[Path]) -> str:
    """What was found instead of images, and what is expected: "found other files (10 .txt, 2 .zip). Expected images ..."."""
    expected = f"Expected {EXPECTED_IMAGES}"
    if not files:
        return f"found no files at all. {expected}"
    kinds = Counter(file.suffix.lower() or "no suffix" for file in files)
    found = f"found other files ({enumerate_some([f'{count} {kind}' for kind, count in kinds.most_common()])})"
    archives = [file.name for file in files if file.suffix.lower() in ARCHIVE_SUFFIXES]
    return f"{found}{f'; unpack {enumerate_some(archives, 3)} first' if archives else ''}. {expected}"
