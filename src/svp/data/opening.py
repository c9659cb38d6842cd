"""From what the user calls the data to its three parts."""

from __future__ import annotations

from pathlib import Path

from svp.data.catalog import dataset_info, list_datasets
from svp.data.folder import read_folder
from svp.data.splits import DataError, ImageData, Parts, complete
from svp.paths import home


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
    """Open a folder, or a data set of the catalogue by name (a folder of that name comes first).

    Args:
        data: Folder or name.
        data_root: Where named data sets are found or made; ``$SVP_HOME/data`` if None.
        seed: Of the splits that the data does not bring itself.
        val_fraction: Share of the training images for validation where it brings none.
        test_fraction: Share for test where it brings none.

    Raises:
        DataError: The data cannot be trained on as it is; neither a folder nor a known name.
    """
    name, parts = _read(data, data_folder(data_root), seed)
    return complete(name, parts, seed=seed, val_fraction=val_fraction, test_fraction=test_fraction)


def _read(data: str, root: Path, seed: int) -> tuple[str, Parts]:
    folder = Path(data).expanduser()
    if folder.exists():
        return folder.resolve().name, read_folder(folder)
    if Path(data).name != data:
        raise DataError(f"{data} does not exist; give a folder with one folder of images per class")
    if data not in list_datasets():
        raise DataError(
            f"{data!r} is neither a folder here nor a known data set ({', '.join(list_datasets())}); "
            "give a folder with one folder of images per class"
        )
    return data, dataset_info(data).read(root, seed)
