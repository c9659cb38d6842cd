"""Data sets by name: one row each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from svp.data.named import fgvc, vtab
from svp.data.named.array_sets import has_images, read_cifar10, read_cifar100, read_svhn
from svp.data.named.digits import has_digits, read_digits
from svp.data.named.fgvc import has_fgvc, read_fgvc
from svp.data.named.listed_sets import read_dtd, read_food101, read_gtsrb
from svp.data.named.official import fetch_official, has_official
from svp.data.splits import DataError, Parts, Split, enumerate_some


@dataclass(frozen=True)
class DatasetInfo:
    """A row of the catalog.

    Args:
        name: What ``--data`` takes.
        title: Full name.
        group: Task group, e.g. "HTA", "VTAB-1K natural".
        classes: Number of classes.
        sizes: Number of images of every part that the data set brings, as published: "train", "val", "test".
        source: Page it comes from.
        license: Its terms, as that page states them.
        layout: What must lie below the data root, in one line.
        fetching: How it is fetched, or what to do by hand.
        citation: Authors, title, venue, year.
        read: Finds the images below a data root; the second argument is the seed of what is drawn.
        fetch: Downloads and unpacks below a data root; None if it cannot be fetched by program.
        present: Whether it is below a data root, at a glance; None if `read` is the way to know.
        metric: What published tables report.
    """

    name: str
    title: str
    group: str
    classes: int
    sizes: Mapping[str, int]
    source: str
    license: str
    layout: str
    fetching: str
    citation: str
    read: Callable[[Path, int], Parts]
    fetch: Callable[[Path], None] | None = None
    present: Callable[[Path], bool] | None = None
    metric: str = "top-1"

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
        present=partial(vtab.has_vtab, task=task),
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
        license=_UNSTATED,
        layout="cifar-10-batches-py/{data_batch_1 ... 5,test_batch,batches.meta}; images written to cifar10/images/",
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
        license=_UNSTATED,
        layout="cifar-100-python/{train,test,meta}; images written to cifar100/images/",
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
        license=_UNSTATED,
        layout="gtsrb/GTSRB/Training/<class>/*.ppm, gtsrb/GTSRB/Final_Test/Images/*.ppm, gtsrb/GT-final_test.csv",
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
        fetching="svp data fetch svhn (246 MB)",
        citation=(
            "Netzer, Wang, Coates, Bissacco, Wu and Ng, Reading digits in natural images with unsupervised feature learning, "
            "NIPS workshop on deep learning and unsupervised feature learning, 2011"
        ),
        read=read_svhn,
        fetch=partial(fetch_official, "svhn"),
        present=partial(has_images, "svhn"),
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
        fetching=f"svp data fetch cub200 (1.1 GB); {_VPT_SPLITS}",
        citation="Wah et al., The Caltech-UCSD Birds-200-2011 Dataset, CNS-TR-2011-001, 2011",
        read=partial(read_fgvc, name="cub200"),
        fetch=partial(fetch_official, "cub200"),
        present=partial(has_fgvc, name="cub200"),
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
        fetching=f"by hand: agree to the terms on the source page, unpack nabirds.tar.gz; {_VPT_SPLITS}",
        citation="Van Horn et al., Building a Bird Recognition App and Large Scale Dataset with Citizen Scientists, CVPR 2015",
        read=partial(read_fgvc, name="nabirds"),
        present=partial(has_fgvc, name="nabirds"),
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
        fetching=f"by hand: unpack images.tar and lists.tar of the source page; {_VPT_SPLITS}",
        citation="Khosla et al., Novel Dataset for Fine-Grained Image Categorization, CVPR workshop on Fine-Grained Visual "
        "Categorization, 2011",
        read=partial(read_fgvc, name="stanford_dogs"),
        present=partial(has_fgvc, name="stanford_dogs"),
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
        fetching=f"svp data fetch oxford_flowers (345 MB); {_VPT_SPLITS}",
        citation="Nilsback and Zisserman, Automated Flower Classification over a Large Number of Classes, ICVGIP 2008",
        read=partial(read_fgvc, name="oxford_flowers"),
        fetch=partial(fetch_official, "oxford_flowers"),
        present=partial(has_fgvc, name="oxford_flowers"),
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
        fetching=f"by hand: the source page is no longer there, take a copy of it; {_VPT_SPLITS}",
        citation="Krause et al., 3D Object Representations for Fine-Grained Categorization, ICCV workshop 2013",
        read=partial(read_fgvc, name="stanford_cars"),
        present=partial(has_fgvc, name="stanford_cars"),
    ),
    *map(_vtab_row, vtab.TASKS),
)


@dataclass(frozen=True)
class NamedSource:
    """A `Source`: a data set of the catalog.

    Attributes:
        info: Its row.
        root: The data root that it lies below.
    """

    info: DatasetInfo
    root: Path

    @property
    def name(self) -> str:
        return self.info.name

    def parts(self, seed: int = 0) -> Parts:
        """The parts as published; what a reader draws is drawn by `seed`."""
        return self.info.read(self.root, seed)

    def labelled(self, class_names: Sequence[str]) -> Split:
        """The test part if the data set has one, else the training part."""
        parts = self.parts()
        split = parts.splits.get("test", parts.splits["train"])
        unknown = sorted(set(parts.class_names) - set(class_names))
        if unknown:
            raise DataError(
                f"{self.name}: {len(unknown)} of its {len(parts.class_names)} classes are not among the {len(class_names)} "
                f"classes of the model: {enumerate_some(unknown)}"
            )
        label_of = {class_name: label for label, class_name in enumerate(class_names)}
        labels = tuple(label_of[parts.class_names[label]] for label in split.labels)
        return Split(split.paths, labels, f"{self.name}, {split.origin}")

    def fraction(self, share: float) -> Split | None:
        """The published list of a share of the training part, as it is; None if there is none."""
        return fgvc.read_fraction(self.root, self.name, share)


def list_datasets() -> list[str]:
    """Names that ``--data`` takes beside folders."""
    return [row.name for row in _CATALOG]


def dataset_info(name: str) -> DatasetInfo:
    """The catalog's row.

    Raises:
        DataError: Unknown; lists the known names.
    """
    for row in _CATALOG:
        if row.name == name:
            return row
    raise DataError(f"unknown data set {name!r}; known: {', '.join(list_datasets())}")
