"""Data sets by name: one row each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from svp.data.digits import read_digits
from svp.data.splits import DataError, Parts


@dataclass(frozen=True)
class DatasetInfo:
    """A row of the catalogue.

    Args:
        name: What ``--data`` takes.
        title: Full name.
        group: Task group, e.g. "HTA", "VTAB-1K natural".
        classes: Number of classes.
        sizes: Number of images of every part that the data set brings, as published: "train", "val", "test".
        source: Page it comes from.
        license: Its terms, as that page states them.
        layout: What must lie below the data root, in one line.
        metric: What published tables report.
        fetching: How it is fetched, or what to do by hand.
        citation: Authors, title, venue, year.
        read: Finds the images below a data root; the second argument is the seed of what is drawn.
        fetch: Downloads and unpacks below a data root; None if it cannot be fetched by program.
    """

    name: str
    title: str
    group: str
    classes: int
    sizes: Mapping[str, int]
    source: str
    license: str
    layout: str
    metric: str
    fetching: str
    citation: str
    read: Callable[[Path, int], Parts]
    fetch: Callable[[Path], None] | None = None

    @property
    def images(self) -> int:
        """Number of images in all parts."""
        return sum(self.sizes.values())


_CATALOG = (
    DatasetInfo(
        name="digits",
        title="Optical Recognition of Handwritten Digits (the part that scikit-learn carries)",
        group="embedded",
        classes=10,
        sizes={"train": 1797},
        source="https://archive.ics.uci.edu/dataset/80",
        license="CC BY 4.0",
        layout="digits/<digit>/<number>.png, written when first used",
        metric="top-1",
        fetching="comes with scikit-learn",
        citation="Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998",
        read=read_digits,
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
