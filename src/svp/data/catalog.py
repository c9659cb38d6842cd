"""Data sets by name: one row each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from svp.data.folder import DataError, ImageData, open_folder
from svp.paths import home, write_atomically


@dataclass(frozen=True)
class DatasetInfo:
    """A row of the catalogue.

    Args:
        name: What ``--data`` takes.
        title: Full name.
        classes: Number of classes.
        images: Number of images.
        source: Where it comes from.
        license: Its terms.
        make: Writes class folders into the given folder.
    """

    name: str
    title: str
    classes: int
    images: int
    source: str
    license: str
    make: Callable[[Path], None]


def _make_digits(folder: Path) -> None:
    """scikit-learn's digits: 8 x 8 grey scans, written as 32 x 32 PNG."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for number, (scan, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        image = Image.fromarray((scan * (255 / 16)).round().astype("uint8")).resize((32, 32), Image.Resampling.BICUBIC)
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        image.save(folder / str(label) / f"{number:04d}.png")


_CATALOG = (
    DatasetInfo(
        name="digits",
        title="Optical Recognition of Handwritten Digits (the part that scikit-learn carries)",
        classes=10,
        images=1797,
        source="https://archive.ics.uci.edu/dataset/80",
        license="CC BY 4.0",
        make=_make_digits,
    ),
)


def list_datasets() -> list[str]:
    """Names that ``--data`` takes beside folders."""
    return [row.name for row in _CATALOG]


def dataset_info(name: str) -> DatasetInfo:
    """The catalogue's row.

    Raises:
        DataError: Unknown; lists the known names.
    """
    for row in _CATALOG:
        if row.name == name:
            return row
    raise DataError(f"unknown data set {name!r}; known: {', '.join(list_datasets())}")


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
        DataError: See ``open_folder``; neither a folder nor a known name.
    """
    folder = Path(data).expanduser()
    if not folder.exists():
        if Path(data).name != data:
            raise DataError(f"{data} does not exist; give a folder with one folder of images per class")
        if data not in list_datasets():
            raise DataError(
                f"{data!r} is neither a folder here nor a known data set ({', '.join(list_datasets())}); "
                "give a folder with one folder of images per class"
            )
        folder = _made(dataset_info(data), Path(data_root).expanduser() if data_root else home() / "data")
    return open_folder(folder, seed=seed, val_fraction=val_fraction, test_fraction=test_fraction)


def _made(row: DatasetInfo, root: Path) -> Path:
    folder = root / row.name
    finished = folder / ".complete"
    if not finished.is_file():
        row.make(folder)
        write_atomically(finished, lambda path: path.write_text(row.source + "\n", encoding="utf-8"))
    return folder
