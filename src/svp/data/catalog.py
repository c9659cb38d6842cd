"""Data sets by name: one row each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from svp.data.array_sets import has_images, read_cifar10, read_cifar100, read_svhn
from svp.data.digits import has_digits, read_digits
from svp.data.listed_sets import read_dtd, read_food101, read_gtsrb
from svp.data.official import fetch_official, has_official
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
        present: Whether it is below a data root, at a glance; None if `read` is the way to know.
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
    present: Callable[[Path], bool] | None = None

    @property
    def images(self) -> int:
        """Number of images in all parts."""
        return sum(self.sizes.values())

    def is_present(self, root: Path) -> bool:
        """Whether the data set is below `root`; that every image is there and can be read is not checked."""
        if self.present is not None:
            return self.present(root)
        try:
            self.read(root, 0)
        except DataError:
            return False
        return True

    def to_dict(self) -> dict[str, Any]:
        """What there is to know, as values that JSON can hold."""
        functions = ("read", "fetch", "present")
        facts = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in functions}
        return facts | {"sizes": dict(self.sizes), "images": self.images}


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
        present=has_digits,
    ),
    DatasetInfo(
        name="cifar10",
        title="CIFAR-10",
        group="HTA",
        classes=10,
        sizes={"train": 50_000, "test": 10_000},
        source="https://www.cs.toronto.edu/~kriz/cifar.html",
        license="not stated by the source",
        layout="cifar-10-batches-py/{data_batch_1 ... 5,test_batch,batches.meta}; images written to cifar10/images/",
        metric="top-1",
        fetching="svp data fetch cifar10 (170 MB)",
        citation="Krizhevsky, Learning multiple layers of features from tiny images, University of Toronto, 2009",
        read=read_cifar10,
        fetch=partial(fetch_official, "cifar10"),
        present=partial(has_images, "cifar10"),
    ),
    DatasetInfo(
        name="cifar100",
        title="CIFAR-100 (fine classes)",
        group="HTA",
        classes=100,
        sizes={"train": 50_000, "test": 10_000},
        source="https://www.cs.toronto.edu/~kriz/cifar.html",
        license="not stated by the source",
        layout="cifar-100-python/{train,test,meta}; images written to cifar100/images/",
        metric="top-1",
        fetching="svp data fetch cifar100 (169 MB)",
        citation="Krizhevsky, Learning multiple layers of features from tiny images, University of Toronto, 2009",
        read=read_cifar100,
        fetch=partial(fetch_official, "cifar100"),
        present=partial(has_images, "cifar100"),
    ),
    DatasetInfo(
        name="dtd",
        title="Describable Textures Dataset (partition 1 of 10)",
        group="HTA",
        classes=47,
        sizes={"train": 1880, "val": 1880, "test": 1880},
        source="https://www.robots.ox.ac.uk/~vgg/data/dtd/",
        license="available to the computer vision community for research purposes",
        layout="dtd/dtd/images/<class>/*.jpg, dtd/dtd/labels/{train1,val1,test1}.txt; or dtd/images, dtd/labels",
        metric="top-1",
        fetching="svp data fetch dtd (625 MB)",
        citation="Cimpoi, Maji, Kokkinos, Mohamed and Vedaldi, Describing textures in the wild, CVPR 2014",
        read=read_dtd,
        fetch=partial(fetch_official, "dtd"),
        present=partial(has_official, "dtd"),
    ),
    DatasetInfo(
        name="food101",
        title="Food-101",
        group="HTA",
        classes=101,
        sizes={"train": 75_750, "test": 25_250},
        source="https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
        license="images belong to their owners on Foodspotting; for scientific fair use only",
        layout="food-101/images/<class>/<id>.jpg, food-101/meta/{train,test}.json",
        metric="top-1",
        fetching="svp data fetch food101 (5.0 GB)",
        citation="Bossard, Guillaumin and Van Gool, Food-101: mining discriminative components with random forests, ECCV 2014",
        read=read_food101,
        fetch=partial(fetch_official, "food101"),
        present=partial(has_official, "food101"),
    ),
    DatasetInfo(
        name="gtsrb",
        title="German Traffic Sign Recognition Benchmark (training images of the online competition)",
        group="HTA",
        classes=43,
        sizes={"train": 26_640, "test": 12_630},
        source="https://benchmark.ini.rub.de/gtsrb_news.html",
        license="not stated by the source",
        layout="gtsrb/GTSRB/Training/<class>/*.ppm, gtsrb/GTSRB/Final_Test/Images/*.ppm, gtsrb/GT-final_test.csv",
        metric="top-1",
        fetching="svp data fetch gtsrb (277 MB)",
        citation=(
            "Stallkamp, Schlipsing, Salmen and Igel, The German Traffic Sign Recognition Benchmark: a multi-class "
            "classification competition, IJCNN 2011"
        ),
        read=read_gtsrb,
        fetch=partial(fetch_official, "gtsrb"),
        present=partial(has_official, "gtsrb"),
    ),
    DatasetInfo(
        name="svhn",
        title="Street View House Numbers (cropped digits, without the extra part)",
        group="HTA",
        classes=10,
        sizes={"train": 73_257, "test": 26_032},
        source="http://ufldl.stanford.edu/housenumbers/",
        license="for non-commercial use only",
        layout="train_32x32.mat and test_32x32.mat, there or in svhn/; images written to svhn/images/",
        metric="top-1",
        fetching="svp data fetch svhn (246 MB)",
        citation=(
            "Netzer, Wang, Coates, Bissacco, Wu and Ng, Reading digits in natural images with unsupervised feature learning, "
            "NIPS workshop on deep learning and unsupervised feature learning, 2011"
        ),
        read=read_svhn,
        fetch=partial(fetch_official, "svhn"),
        present=partial(has_images, "svhn"),
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
