"""Which files of a folder are images, and what else lies there."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from svp.data.pipeline.formats import ARRAY_SUFFIX, EXPECTED_IMAGES, IMAGE_SUFFIXES, looks_like_image
from svp.data.splits import DataError, LeftOut, describe_left_out, enumerate_some

ARCHIVE_SUFFIXES = frozenset({".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar"})

_LITTER = re.compile(  # what systems, file servers and programs leave behind; whole names, in any case
    r"""
    thumbs\.db(:encryptable)? | ehthumbs(_vista)?\.db | desktop\.ini | \.?picasa\.ini | zbthumbnail\.info | autorun\.inf
    | \$recycle\.bin | system\ volume\ information | found\.\d{3} | ~\$.*
    | \._.* | __macosx | icon\r | \.ds_store | \.appledouble | \.appledb | \.appledesktop | \.spotlight-v100 | \.fseventsd
    | \.trashes | \.temporaryitems | \.documentrevisions-v100 | \.apdisk | network\ trash\ folder | temporary\ items
    | lost\+found | \.trash(-\d+)? | \.nfs[0-9a-f]+ | \.directory | \.thumbnails | \.thumbs? | \.nomedia | \.xvpics
    | @eadir | .*@syno(eastream|resource) | \#recycle | \#snapshot | @(recycle|recently-snapshot|tmp|sharebin|__thumb)
    | \.@__thumb | \.snapshots? | \.zfs | \.~lock\..* | \.(stfolder|stversions|sync|dropbox(\.cache)?)
    | \.ipynb_checkpoints | __pycache__ | \.(git|svn|hg|bzr|dvc|cache|venv|idea|vscode)
    """,
    re.VERBOSE | re.IGNORECASE,
)
_MOST_COUNTED = 10_000
"""Files of a folder that is left out, of which the images are counted."""


def find_images(paths: Sequence[str | Path], left_out: list[LeftOut] | None = None) -> list[Path]:
    """List the images to predict: a file as given whatever its suffix, a folder by all images below it, sorted.

    Nothing is listed twice.

    Args:
        paths: Files and folders.
        left_out: Collects what lies in the folders and is left out.

    Raises:
        DataError: A path does not exist, or a folder has no image below it.
    """
    found: dict[Path, Path] = {}  # by absolute path
    for path in (Path(path).expanduser() for path in paths):
        if path.is_dir():
            beside: list[LeftOut] = []
            files = list(files_below(path, left_out=beside))
            images = [file for file in files if is_image(file)]
            others = [LeftOut(file) for file in files if not is_image(file)]
            if not images:
                raise DataError("\n".join([f"{path}: no images; {describe(files)}.", *describe_left_out(beside, path)]))
            if left_out is not None:
                left_out += [*others, *beside]
        elif path.exists():
            images = [path]
        else:
            raise DataError(f"{path}: no such file or folder.")
        for image in images:
            found.setdefault(image.absolute(), image)
    return list(found.values())


def entries(folder: Path, left_out: list[LeftOut] | None = None) -> list[Path]:
    """What the folder holds, sorted, without hidden entries and litter.

    Args:
        folder: The folder.
        left_out: Collects hidden entries and litter, as far as they hold images.
    """
    return [folder / name for name in _names(folder, left_out)]


def _names(folder: Path, left_out: list[LeftOut] | None) -> list[str]:
    try:
        found = sorted(entry.name for entry in os.scandir(folder))
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror}).") from error
    kept = []
    for name in found:
        litter = _LITTER.fullmatch(name) is not None
        if not litter and not name.startswith("."):
            kept.append(name)
        elif left_out is not None:
            images = _count_images(folder / name, litter)
            if images:
                left_out.append(LeftOut(folder / name, "litter" if litter else "hidden", images))
    return kept


def _count_images(path: Path, litter: bool) -> int:
    """Images below a folder, as far as they are counted; whether a file is one, unless it is litter."""
    if not path.is_dir():
        return int(not litter and is_image(path))
    files = (Path(name) for _, _, names in os.walk(path) for name in names)
    return sum(map(is_image, islice(files, _MOST_COUNTED)))


def files_below(folder: Path, above: frozenset[Path] = frozenset(), left_out: list[LeftOut] | None = None) -> Iterator[Path]:
    """Every file below, links followed but no link back to a folder above. A dangling link counts as a file.

    Args:
        folder: The folder.
        above: Resolved folders on the way to it.
        left_out: Collects what is left out, as in `entries`.
    """
    above |= {folder.resolve()}
    for name in _names(folder, left_out):  # names alone: there may be millions
        entry = folder / name
        if not entry.is_dir():
            yield entry
        elif entry.resolve() not in above:
            yield from files_below(entry, above, left_out)


def is_image(path: Path) -> bool:
    """Whether the suffix is one of `IMAGE_SUFFIXES`, in any case, or there is none and the first bytes are an image's.

    A NumPy array is one if it has three axes.
    """
    suffix = path.suffix.lower()
    if suffix == ARRAY_SUFFIX:
        from svp.data.pipeline.bands import is_image_array

        return is_image_array(path)
    return suffix in IMAGE_SUFFIXES or (not suffix and looks_like_image(path))


def describe(files: Sequence[Path]) -> str:
    """What was found instead of images, and what is expected: "found other files (10 .txt, 2 .zip). Expected images ..."."""
    expected = f"Expected {EXPECTED_IMAGES}"
    if not files:
        return f"found no files at all. {expected}"
    kinds = Counter(file.suffix.lower() or "no suffix" for file in files)
    found = f"found other files ({enumerate_some([f'{count} {kind}' for kind, count in kinds.most_common()])})"
    archives = [file.name for file in files if file.suffix.lower() in ARCHIVE_SUFFIXES]
    return f"{found}{f'; unpack {enumerate_some(archives, 3)} first' if archives else ''}. {expected}"
