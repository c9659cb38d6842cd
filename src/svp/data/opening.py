"""From what the user calls the data to its parts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from svp.data.groups import group_by_name
from svp.data.named.catalog import NamedSource, dataset_info, list_datasets
from svp.data.sources.archive import ArchiveSource, is_archive
from svp.data.sources.folder import FolderSource
from svp.data.sources.hub import HubSource, is_on_hub
from svp.data.sources.source import Source
from svp.data.sources.table import NO_GROUP, TableSource, is_table
from svp.data.sources.unpacked import UnpackedSource
from svp.data.splits import DataError, ImageData, Parts, Split
from svp.data.splitting import complete
from svp.paths import home
from svp.settings import TaskChoice
from svp.tasks import SINGLE_LABEL, Task

_EXPECTED = (
    "give a folder with one folder of images per class, a table (.csv with the columns path and label), an archive "
    "(.tar, .zip) or hfds/OWNER/NAME"
)


def data_folder(data_root: str | Path | None = None) -> Path:
    """Where named data sets are found or made: the folder given, or ``$SVP_HOME/data``."""
    return Path(data_root).expanduser() if data_root else home() / "data"


def open_data(
    data: str,
    data_root: str | Path | None = None,
    *,
    seed: int = 0,
    val_fraction: float = 0.15,
    test_fraction: float = 0.15,
    group: str | None = None,
    group_regex: str | None = None,
    archive_encoding: str | None = None,
    task: TaskChoice = "auto",
    label: str | None = None,
) -> ImageData:
    """Open images of the user's own, or a data set of the catalog by name (a folder of that name comes first).

    Args:
        data: Folder, table (.csv, .tsv), archive (.tar, .zip, folder of tars), ``hfds/OWNER/NAME`` for a data set of the
            Hugging Face Hub, or name.
        data_root: Where named data sets are found or made and archives unpacked; ``$SVP_HOME/data`` if None.
        seed: Seeds the splits that the data does not bring itself.
        val_fraction: Share of the training images for validation where it brings none.
        test_fraction: Share for test where it brings none.
        group: Column of a table that says which images stay in one part; see `open_parts`.
        group_regex: Finds the same in the names of the files; see `open_parts`.
        archive_encoding: Encoding of the names in an archive that are not UTF-8; guessed, with a note, if None.
        task: What the labels of a table are: "single", "multi" or "regression"; "auto" tells it by the labels, with a note.
        label: Columns of a table that hold the labels, with commas between them; several hold 0 or 1 each. ``label`` if None.

    Raises:
        DataError: The data cannot be trained on as it is; nothing is there, and it is no known name.
    """
    source = find_source(data, data_root, group, archive_encoding, task, label)
    parts = open_parts(source, seed, group, group_regex)
    return complete(source.name, parts, seed=seed, val_fraction=val_fraction, test_fraction=test_fraction)


def open_parts(source: Source, seed: int = 0, group: str | None = None, group_regex: str | None = None) -> Parts:
    """What a source brings itself, with its groups.

    Args:
        source: What `find_source` gave for the same `group`.
        seed: Seeds what a published data set draws.
        group: Column of a table, "none" for none; the column ``group`` if None and there is one.
        group_regex: Regular expression that finds the group in a file's name, or in its path below the root if it holds a
            slash; its first bracket is the group.

    Raises:
        DataError: The data cannot be trained on as it is, or its groups cannot be told.
    """
    if group not in (None, NO_GROUP) and group_regex is not None:
        raise DataError(f"group is {group!r} and group_regex is {group_regex!r}, expected only one of them.")
    if group not in (None, NO_GROUP) and not isinstance(source, TableSource):
        raise DataError(f"{source.name}: group {group!r} names a column of a table, and this is none; give group_regex.")
    parts = source.parts(seed)
    return parts if group_regex is None else group_by_name(parts, group_regex)


def find_source(
    data: str | Path,
    data_root: str | Path | None = None,
    group: str | None = None,
    archive_encoding: str | None = None,
    task: TaskChoice = "auto",
    label: str | None = None,
) -> Source:
    """What `data` is: see `open_data`. Nothing is read yet.

    Raises:
        DataError: Nothing is there, and it is no known name.
    """
    name, path = str(data), Path(data).expanduser()
    if (task in ("multi", "regression") or label is not None) and not is_table(path):
        given = f"label is {label!r}" if label is not None else f"task is {task}"
        raise DataError(f"{given}, and {data} is no table: several labels or numbers are read from a table (.csv, .tsv).")
    if is_on_hub(name):
        return HubSource(name, data_folder(data_root))
    if not path.exists():
        if name in list_datasets():  # what lies here under that name comes first
            return NamedSource(dataset_info(name), data_folder(data_root))
        if path.name != name or is_table(path) or is_archive(path):
            raise DataError(f"{data} does not exist; {_EXPECTED}")
        raise DataError(f"{name!r} is neither a folder here nor a known data set ({', '.join(list_datasets())}); {_EXPECTED}")
    if is_archive(path):
        return ArchiveSource(path, data_folder(data_root), archive_encoding)
    if is_table(path) and path.is_file():
        return TableSource(path, Path(data_root) if data_root else None, group, task, label)
    return FolderSource(path)


def open_fraction(data: str, fraction: float, data_root: str | Path | None = None) -> Split | None:
    """The list of a share of the training images that a data set of the catalog brings itself.

    Args:
        data: What `open_data` was given.
        fraction: Share of the training images, above 0 up to 1.
        data_root: Where named data sets are found; see `open_data`.
    Returns:
        As published; it may hold images that `open_data` splits off. None if there is no list of this share, and for all that
        is not opened by name.
    Raises:
        DataError: The list does not fit the data set.
    """
    source = find_source(data, data_root)
    return source.fraction(fraction) if isinstance(source, NamedSource) else None


def open_labelled(
    data: str | Path,
    class_names: Sequence[str],
    data_root: str | Path | None = None,
    archive_encoding: str | None = None,
    task: Task = SINGLE_LABEL,
    label: str | None = None,
) -> Split:
    """Images to score known classes on: the test part where the data has parts, else all of it.

    Args:
        data: Folder, table, archive, ``hfds/OWNER/NAME`` or name, see `open_data`.
        class_names: Classes of the model, which the labels index; some may be missing from the data.
        data_root: Where named data sets are found and archives unpacked; ``$SVP_HOME/data`` if None.
        archive_encoding: Encoding of the names in an archive that are not UTF-8; guessed if None.
        task: What the model says; other things than classes are read from tables alone.
        label: Columns of a table that hold the labels; told by `class_names` if None.

    Raises:
        DataError: A class is not among `class_names`, or there are no labelled images.
    """
    source = find_source(data, data_root, archive_encoding=archive_encoding)
    if isinstance(source, TableSource):
        return source.truths(class_names, task, label)
    if task.kind != "single":
        raise DataError(f"the model says {task.title}, and {data} is no table: give a .csv or .tsv with the true ones.")
    return source.labelled(class_names)


def folder_of(data: str | Path, data_root: str | Path | None = None, archive_encoding: str | None = None) -> Path | None:
    """The folder that the names of images of `data` are relative to; None for a data set of the catalog.

    Raises:
        DataError: Nothing is there, and it is no known name; an archive is damaged.
    """
    source = find_source(data, data_root, archive_encoding=archive_encoding)
    if isinstance(source, TableSource):
        return Path(source.path).resolve().parent
    if isinstance(source, FolderSource):
        return Path(source.path).expanduser()
    return source.folder() if isinstance(source, UnpackedSource) else None
