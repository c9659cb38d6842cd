"""From what the user calls the data to its parts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from svp.data.named import fgvc
from svp.data.named.catalog import dataset_info, list_datasets
from svp.data.sources import hub
from svp.data.sources.archive import archive_name, is_archive, read_archive, unpack
from svp.data.sources.folder import read_folder, read_labelled
from svp.data.sources.table import is_table, read_labelled_table, read_table
from svp.data.splits import DataError, ImageData, Parts, Split, complete, enumerate_some
from svp.paths import home

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
) -> ImageData:
    """Open images of the user's own, or a data set of the catalogue by name (a folder of that name comes first).

    Args:
        data: Folder, table (.csv, .tsv), archive (.tar, .zip, folder of tars), ``hfds/OWNER/NAME`` for a data set of the
            Hugging Face Hub, or name.
        data_root: Where named data sets are found or made and archives unpacked; ``$SVP_HOME/data`` if None.
        seed: Of the splits that the data does not bring itself.
        val_fraction: Share of the training images for validation where it brings none.
        test_fraction: Share for test where it brings none.

    Raises:
        DataError: The data cannot be trained on as it is; nothing is there, and it is no known name.
    """
    name, parts = read_data(data, data_root, seed=seed)
    return complete(name, parts, seed=seed, val_fraction=val_fraction, test_fraction=test_fraction)


def read_data(data: str, data_root: str | Path | None = None, *, seed: int = 0) -> tuple[str, Parts]:
    """The name of the data and what it brings itself. For arguments and errors see `open_data`."""
    root = data_folder(data_root)
    path = Path(data).expanduser()
    if hub.is_on_hub(data):
        return data.removeprefix(hub.PREFIX).replace("/", "-"), hub.read_hub(data, root)
    if _is_name(data):
        return data, dataset_info(data).read(root, seed)
    if not path.exists():
        if path.name != data or is_table(path) or is_archive(path):
            raise DataError(f"{data} does not exist; {_EXPECTED}")
        known = ", ".join(list_datasets())
        raise DataError(f"{data!r} is neither a folder here nor a known data set ({known}); {_EXPECTED}")
    if is_archive(path):
        return archive_name(path), read_archive(path, root)
    if is_table(path) and path.is_file():
        return path.stem, read_table(path)
    return path.resolve().name, read_folder(path)


def open_fraction(data: str, fraction: float, data_root: str | Path | None = None) -> Split | None:
    """The list of a share of the training images that a data set of the catalogue brings itself.

    Args:
        data: What `open_data` was given.
        fraction: The share, above 0 up to 1.
        data_root: As for `open_data`.
    Returns:
        As published; it may hold images that `open_data` splits off. None if there is no list of this share, and for all that
        is not opened by name.
    Raises:
        DataError: The list does not fit the data set.
    """
    return fgvc.read_fraction(data_folder(data_root), data, fraction) if _is_name(data) else None


def open_labelled(data: str | Path, class_names: Sequence[str], data_root: str | Path | None = None) -> Split:
    """Images to score known classes on: the test part where the data has parts, else all of it.

    Args:
        data: Folder, table, archive, ``hfds/OWNER/NAME`` or name, see `open_data`.
        class_names: Classes of the model, which the labels index; some may be missing from the data.
        data_root: Where named data sets are found and archives unpacked; ``$SVP_HOME/data`` if None.

    Raises:
        DataError: A class is not among `class_names`, or there are no labelled images.
    """
    path = Path(data).expanduser()
    if hub.is_on_hub(str(data)):
        return read_labelled(hub.fetch_hub(str(data), data_folder(data_root)), class_names)
    if path.exists() and is_archive(path):
        return read_labelled(unpack(path, data_folder(data_root)), class_names)
    if is_table(path) and not path.is_dir():
        return read_labelled_table(path, class_names)
    if _is_name(str(data)):
        return _labelled_by_name(str(data), class_names, data_folder(data_root))
    return read_labelled(path, class_names)


def _is_name(data: str) -> bool:
    """Whether it is opened by the catalogue: what lies here under that name comes first."""
    return data in list_datasets() and not Path(data).expanduser().exists()


def _labelled_by_name(name: str, class_names: Sequence[str], root: Path) -> Split:
    parts = dataset_info(name).read(root, 0)
    split = parts.splits.get("test", parts.splits["train"])
    unknown = sorted(set(parts.class_names) - set(class_names))
    if unknown:
        raise DataError(
            f"{name}: {len(unknown)} of its {len(parts.class_names)} classes are not among the {len(class_names)} classes of "
            f"the model: {enumerate_some(unknown)}"
        )
    numbers = {class_name: number for number, class_name in enumerate(class_names)}
    labels = tuple(numbers[parts.class_names[label]] for label in split.labels)
    return Split(split.paths, labels, f"{name}, {split.origin}")
