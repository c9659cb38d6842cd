"""Data sets by name: one row each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from svp.data import vtab
from svp.data.digits import read_digits
from svp.data.fgvc import fetch_cub200, fetch_oxford_flowers, read_fgvc
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


_UNSTATED = "not stated by the source"
_VPT_SPLITS = "split files of VPT: github.com/KMnP/vpt; without them the data set's own lists are read"


def _vtab_row(task: vtab.Task) -> DatasetInfo:
    return DatasetInfo(
        name=task.name,
        title=f"VTAB-1K: {task.title}",
        group=f"VTAB-1K {task.group}",
        classes=task.classes,
        sizes={"train": 800, "val": 200, "test": task.test},
        source=task.source,
        license=task.license,
        layout=f"vtab-1k/{task.folder}/ with train800.txt, val200.txt, train800val200.txt, test.txt and the images they name",
        metric="top-1; mean over the tasks of the group and over all 19",
        fetching="by hand: vtab-1k/ as github.com/ZhangYuanhan-AI/NOAH or github.com/dongzelian/SSF provides it",
        citation=f"{task.citation}; Zhai et al., A Large-scale Study of Representation Learning with VTAB, arXiv:1910.04867",
        read=partial(vtab.read_vtab, task=task),
    )


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
    DatasetInfo(
        name="cub200",
        title="Caltech-UCSD Birds-200-2011",
        group="HTA",
        classes=200,
        sizes={"train": 5393, "val": 600, "test": 5794},
        source="https://www.vision.caltech.edu/datasets/cub_200_2011",
        license=_UNSTATED,
        layout="CUB_200_2011/ with images/, classes.txt and train.json, val.json, test.json (or images.txt, "
        "image_class_labels.txt, train_test_split.txt: 5994 training and 5794 test images)",
        metric="top-1",
        fetching=f"from data.caltech.edu, 1.1 GB; {_VPT_SPLITS}",
        citation="Wah et al., The Caltech-UCSD Birds-200-2011 Dataset, CNS-TR-2011-001, 2011",
        read=partial(read_fgvc, name="cub200"),
        fetch=fetch_cub200,
    ),
    DatasetInfo(
        name="nabirds",
        title="NABirds, visual categories of birds of North America",
        group="HTA",
        classes=555,
        sizes={"train": 21536, "val": 2393, "test": 24633},
        source="https://dl.allaboutbirds.org/nabirds",
        license="terms of use to be agreed to on the source page",
        layout="nabirds/ with images/, classes.txt and train.json, val.json, test.json (or images.txt, "
        "image_class_labels.txt, train_test_split.txt: 23929 training and 24633 test images)",
        metric="top-1",
        fetching=f"by hand: agree to the terms on the source page, unpack nabirds.tar.gz; {_VPT_SPLITS}",
        citation="Van Horn et al., Building a Bird Recognition App and Large Scale Dataset with Citizen Scientists, CVPR 2015",
        read=partial(read_fgvc, name="nabirds"),
    ),
    DatasetInfo(
        name="stanford_dogs",
        title="Stanford Dogs",
        group="HTA",
        classes=120,
        sizes={"train": 10800, "val": 1200, "test": 8580},
        source="http://vision.stanford.edu/aditya86/ImageNetDogs",
        license=_UNSTATED,
        layout="stanford-dogs/ with Images/ and train.json, val.json, test.json (or train_list.mat, test_list.mat: "
        "12000 training and 8580 test images)",
        metric="top-1",
        fetching=f"by hand: unpack images.tar and lists.tar of the source page; {_VPT_SPLITS}",
        citation="Khosla et al., Novel Dataset for Fine-Grained Image Categorization, CVPR workshop on Fine-Grained Visual "
        "Categorization, 2011",
        read=partial(read_fgvc, name="stanford_dogs"),
    ),
    DatasetInfo(
        name="oxford_flowers",
        title="Oxford 102 Flowers",
        group="HTA",
        classes=102,
        sizes={"train": 1020, "val": 1020, "test": 6149},
        source="https://www.robots.ox.ac.uk/~vgg/data/flowers/102",
        license=_UNSTATED,
        layout="OxfordFlower/ or flowers-102/ with jpg/ and train.json, val.json, test.json (or setid.mat, imagelabels.mat)",
        metric="top-1",
        fetching=f"by torchvision, 345 MB; {_VPT_SPLITS}",
        citation="Nilsback and Zisserman, Automated Flower Classification over a Large Number of Classes, ICVGIP 2008",
        read=partial(read_fgvc, name="oxford_flowers"),
        fetch=fetch_oxford_flowers,
    ),
    DatasetInfo(
        name="stanford_cars",
        title="Stanford Cars",
        group="FGVC",
        classes=196,
        sizes={"train": 7329, "val": 815, "test": 8041},  # train.json has 8144, those of val.json among them
        source="https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
        license=_UNSTATED,
        layout="stanford-cars/ with car_ims/ and train.json, val.json, test.json (or devkit/, cars_train/, cars_test/ and "
        "cars_test_annos_withlabels.mat: 8144 training and 8041 test images)",
        metric="top-1",
        fetching=f"by hand: the source page is no longer there, take a copy of it; {_VPT_SPLITS}",
        citation="Krause et al., 3D Object Representations for Fine-Grained Categorization, ICCV workshop 2013",
        read=partial(read_fgvc, name="stanford_cars"),
    ),
    *map(_vtab_row, vtab.TASKS),
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
