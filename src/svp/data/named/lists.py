"""Files that list images with their classes: what every format has in common, and what can be wrong with each."""

import json
import os
import posixpath
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from svp.data.splits import DataError, Split

ClassId = int | str
"""How a list calls a class."""


class Entry(NamedTuple):
    """An image of a list.

    Attributes:
        path: Relative to the folder of the images, "/" between folders.
        class_id: The class as the list writes it.
        path_at: File and line that give the path.
        class_at: File and line that give the class.
    """

    path: str
    class_id: ClassId
    path_at: str
    class_at: str


@dataclass(frozen=True)
class ImageList:
    """A list of images, none twice. `file` is the list, or the one that tells its images from those of other parts."""

    file: Path
    entries: tuple[Entry, ...]

    def __len__(self) -> int:
        return len(self.entries)

    def without(self, other: "ImageList") -> "ImageList":
        """The entries whose images the other list does not have."""
        paths = {entry.path for entry in other.entries}
        return ImageList(self.file, tuple(entry for entry in self.entries if entry.path not in paths))


def image_list(file: Path, entries: Iterable[Entry], part: str = "list") -> ImageList:
    """The entries as a checked list; their paths are normalized.

    Args:
        part: What the message calls the entries of the file.
    Raises:
        DataError: There is none, one is listed twice, or one lies outside of the folder of the images.
    """
    seen: dict[str, Entry] = {}
    for entry in entries:
        path = posixpath.normpath(entry.path)
        if path.startswith(("/", "../")) or path in (".", ".."):
            raise DataError(f"{entry.path_at}: {entry.path!r} is no path of an image below the folder that it is relative to.")
        if path in seen:
            raise DataError(f"{entry.path_at}: {path} is listed before already, by {seen[path].path_at}. Remove one of them.")
        seen[path] = entry._replace(path=path)
    if not seen:
        raise DataError(f"{file}: the {part} is empty. Expected one image at least.")
    return ImageList(file, tuple(seen.values()))


def read_lines(file: Path) -> list[tuple[int, str]]:
    """The lines that are not blank, each with its number, from 1.

    Raises:
        DataError: The file is missing, unreadable or not UTF-8.
    """
    return [(number, line) for number, line in enumerate(read_text(file).split("\n"), 1) if line.strip()]


def read_text(file: Path) -> str:
    """The text of a file in UTF-8, with or without a byte order mark.

    Raises:
        DataError: The file is missing, unreadable or not UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{file}: no such file, but this list of images is needed. Restore it from the data set.") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(f"{file}, line {line}: is not text in UTF-8. Restore the file, or save it as UTF-8.") from error


def read_json(file: Path) -> Any:
    """The content of a JSON file.

    Raises:
        DataError: The file is missing, unreadable or no JSON.
    """
    try:
        return json.loads(read_text(file))
    except json.JSONDecodeError as error:
        raise DataError(f"{file}, line {error.lineno}: damaged JSON ({error.msg}). Fetch the file again.") from error


def check_known(images: ImageList, known: Collection[ClassId], where: str) -> None:
    """Check that every class of the list is a known one.

    Args:
        where: Where the known classes come from, for the message.
    Raises:
        DataError: One is not; names it and its line.
    """
    for entry in images.entries:
        if entry.class_id not in known:
            raise DataError(
                f"{entry.class_at}: class {entry.class_id} of {entry.path} is not among the {len(known)} of {where}."
            )


def check_files(folder: Path, lists: Iterable[ImageList]) -> None:
    """Check that the images of all lists exist below the folder.

    Raises:
        DataError: Some do not; names the first one of a list and its line, and counts the others.
    """
    present: dict[str, set[str]] = {}  # a folder is listed once: asking for every file takes minutes on network drives
    for images in lists:
        missing = []
        for entry in images.entries:
            parent, _, name = entry.path.rpartition("/")
            if parent not in present:
                present[parent] = _files_in(folder / parent)
            # The file system may spell a name otherwise (case, accents) and find it all the same.
            if name not in present[parent] and not (folder / entry.path).is_file():
                missing.append(entry)
        if missing:
            raise DataError(
                f"{missing[0].path_at}: there is no image {folder / missing[0].path}; {len(missing)} of the {len(images)} "
                f"images of this list are missing. Restore the images, or remove their entries."
            )


def check_apart(first: ImageList, second: ImageList) -> None:
    """Check that no image is in both lists.

    Raises:
        DataError: Some are; names the first one with its line in either list, and counts the others.
    """
    at = {entry.path: entry.path_at for entry in first.entries}
    common = [entry for entry in second.entries if entry.path in at]
    if common:
        raise DataError(
            f"{common[0].path_at}: {common[0].path} is in {at[common[0].path]}, too; {len(common)} of {len(second)} images "
            "are in both parts, which must be disjoint. Remove each from one of them."
        )


def as_split(images: ImageList, folder: Path, labels: Mapping[ClassId, int], origin: str) -> Split:
    """The list in its order, as paths below the folder."""
    return Split(
        tuple(folder / entry.path for entry in images.entries),
        tuple(labels[entry.class_id] for entry in images.entries),
        origin,
    )


def find_folder(title: str, places: Iterable[Path], lists: Iterable[str]) -> Path:
    """The first of the places that is a folder with one of the lists in it.

    Raises:
        DataError: None is; names all places and what was found there.
    """
    places, lists = list(places), list(lists)
    folders = [place for place in places if place.is_dir()]
    for folder in folders:
        if any((folder / name).exists() for name in lists):
            return folder
    found = f"{folders[0]} has none of its lists" if folders else "no such folder"
    expected = "\n".join(f"  {place}" for place in places)
    raise DataError(
        f"{title} not found: {found}. Expected {', '.join(lists)}, or some of these, in one of\n{expected}\n"
        "`svp data info` says where it is to be had."
    )


def _files_in(folder: Path) -> set[str]:
    try:
        return {entry.name for entry in os.scandir(folder) if entry.is_file()}
    except OSError:
        return set()
