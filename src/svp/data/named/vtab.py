"""The 19 tasks of VTAB-1K, in the folder layout that SSF, NOAH and later work share.

    vtab-1k/<task>/train800.txt   val200.txt   train800val200.txt   test.txt

Every line is ``path label``: a path relative to the folder of the task, which may hold blanks, and the number of the class.
Source: Zhai et al., arXiv:1910.04867 (the benchmark); github.com/ZhangYuanhan-AI/NOAH, github.com/dongzelian/SSF (the layout).
"""

import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from svp.data.named.lists import (
    ClassId,
    Entry,
    ImageList,
    as_split,
    check_apart,
    check_files,
    find_folder,
    image_list,
    read_lines,
)
from svp.data.splits import DataError, Parts
from svp.errors import InputError

TRAIN, VAL, TRAIN_VAL, TEST = _LISTS = "train800.txt", "val200.txt", "train800val200.txt", "test.txt"

_PREFIX = "vtab_"  # of a task in the catalog, where "svhn" and others are the whole data set


class Task(NamedTuple):
    """A task of VTAB-1K.

    Attributes:
        folder: Its folder below ``vtab-1k/``.
        group: "natural", "specialized" or "structured".
        title: What is told apart in which data set.
        classes: Number of classes.
        test: Number of test images; 800 are for training and 200 for validation in every task.
        source: Page of the data set that it was made from.
        citation: What to cite for that data set.
        license: Its terms, as that page states them.
    """

    folder: str
    group: str
    title: str
    classes: int
    test: int
    source: str
    citation: str
    license: str = "not stated by the source"

    @property
    def name(self) -> str:
        """Its name in the catalog."""
        return _PREFIX + self.folder


_CIFAR = (
    "https://www.cs.toronto.edu/~kriz/cifar.html",
    "Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
)
_CLEVR = "https://cs.stanford.edu/people/jcjohns/clevr", "Johnson et al., CLEVR, CVPR 2017", "CC BY 4.0"
_DSPRITES = "https://github.com/google-deepmind/dsprites-dataset", "Matthey et al., dSprites, 2017", "Apache-2.0"
_NORB = (
    "https://cs.nyu.edu/~ylclab/data/norb-v1.0-small",
    "LeCun et al., Learning Methods for Generic Object Recognition, CVPR 2004",
    "for research",
)

# fmt: off
TASKS = (
    Task("caltech101", "natural", "Caltech-101 objects and background", 102, 6084,
         "https://data.caltech.edu/records/mzrjq-6wc02", "Fei-Fei et al., One-Shot Learning of Object Categories, PAMI 2006",
         "CC BY 4.0"),
    Task("cifar", "natural", "CIFAR-100 objects", 100, 10000, *_CIFAR),
    Task("dtd", "natural", "Describable textures", 47, 1880,
         "https://www.robots.ox.ac.uk/~vgg/data/dtd", "Cimpoi et al., Describing Textures in the Wild, CVPR 2014",
         "available to the computer vision community for research purposes"),
    Task("oxford_flowers102", "natural", "Oxford flowers", 102, 6149, "https://www.robots.ox.ac.uk/~vgg/data/flowers/102",
         "Nilsback and Zisserman, Automated Flower Classification over a Large Number of Classes, ICVGIP 2008"),
    Task("oxford_iiit_pet", "natural", "Oxford-IIIT breeds of cats and dogs", 37, 3669,
         "https://www.robots.ox.ac.uk/~vgg/data/pets", "Parkhi et al., Cats and Dogs, CVPR 2012", "CC BY-SA 4.0"),
    Task("svhn", "natural", "Street view house numbers", 10, 26032, "http://ufldl.stanford.edu/housenumbers",
         "Netzer et al., Reading Digits in Natural Images with Unsupervised Feature Learning, NIPS workshop 2011",
         "for non-commercial use only"),
    Task("sun397", "natural", "SUN397 scenes", 397, 21750,
         "https://vision.princeton.edu/projects/2010/SUN", "Xiao et al., SUN Database, CVPR 2010"),
    Task("patch_camelyon", "specialized", "PatchCamelyon, tumor tissue or none", 2, 32768,
         "https://github.com/basveeling/pcam",
         "Veeling et al., Rotation Equivariant CNNs for Digital Pathology, MICCAI 2018", "CC0"),
    Task("eurosat", "specialized", "EuroSAT land use", 10, 5400, "https://github.com/phelber/EuroSAT",
         "Helber et al., EuroSAT, IEEE J. of Selected Topics in Applied Earth Observations and Remote Sensing, 2019", "MIT"),
    Task("resisc45", "specialized", "RESISC45 aerial scenes", 45, 6300, "https://arxiv.org/abs/1703.00121",
         "Cheng et al., Remote Sensing Image Scene Classification, Proceedings of the IEEE, 2017"),
    Task("diabetic_retinopathy", "specialized", "Diabetic retinopathy, grade of the disease", 5, 42670,
         "https://www.kaggle.com/c/diabetic-retinopathy-detection",
         "Kaggle and EyePACS, Diabetic Retinopathy Detection, 2015", "rules of the competition on Kaggle"),
    Task("clevr_count", "structured", "CLEVR, number of objects", 8, 15000, *_CLEVR),
    Task("clevr_dist", "structured", "CLEVR, distance of the closest object", 6, 15000, *_CLEVR),
    Task("dmlab", "structured", "DeepMind Lab, distance and kind of the closest object", 6, 22735,
         "https://github.com/google-deepmind/lab", "Beattie et al., DeepMind Lab, arXiv:1612.03801"),
    Task("kitti", "structured", "KITTI, distance of the closest vehicle", 4, 711,
         "https://www.cvlibs.net/datasets/kitti", "Geiger et al., Vision meets Robotics: The KITTI Dataset, IJRR 2013",
         "CC BY-NC-SA 3.0"),
    Task("dsprites_loc", "structured", "dSprites, horizontal position of the shape", 16, 73728, *_DSPRITES),
    Task("dsprites_ori", "structured", "dSprites, orientation of the shape", 16, 73728, *_DSPRITES),
    Task("smallnorb_azi", "structured", "SmallNORB, azimuth of the camera", 18, 12150, *_NORB),
    Task("smallnorb_ele", "structured", "SmallNORB, elevation of the camera", 9, 12150, *_NORB),
)
# fmt: on


def read_vtab(root: Path, seed: int, *, task: Task) -> Parts:
    """The lists of a task as parts; classes are called by their numbers, for the lists have no names.

    Its folder is looked for in `root`, ``root/vtab-1k`` and ``root/VTAB/vtab-1k``; `root` may also be that folder itself.
    Where train800.txt and val200.txt are both absent, a fifth of train800val200.txt is drawn for validation by `seed`, from
    all images alike: a task may have one image of a class.

    Raises:
        DataError: A list is missing, empty or wrong, or an image of it is missing; names file and line.
    """
    folder = _find_task(root, task)
    class_names = tuple(str(label) for label in range(task.classes))
    test = _read_list(folder / TEST, task.classes)
    whole = _read_list(folder / TRAIN_VAL, task.classes) if (folder / TRAIN_VAL).exists() else None
    if whole and not (folder / TRAIN).exists() and not (folder / VAL).exists():
        train, val = _draw_val(whole, seed)
        origins = [f"rest of {TRAIN_VAL}", f"20% of {TRAIN_VAL}, seed {seed}"]
    else:
        train, val = (_read_list(folder / name, task.classes) for name in (TRAIN, VAL))
        origins = [TRAIN, VAL]
        check_apart(train, val)
        if whole:
            _check_union(whole, train, val)
    lists = {"train": train, "val": val, "test": test}
    for images in (train, val):
        check_apart(images, test)
    check_files(folder, lists.values())
    labels: dict[ClassId, int] = {label: label for label in range(task.classes)}
    splits = {
        part: as_split(images, folder, labels, origin)
        for (part, images), origin in zip(lists.items(), [*origins, TEST], strict=True)
    }
    paper_train = as_split(whole, folder, labels, TRAIN_VAL) if whole else None
    return Parts(folder, class_names, splits, paper_train)


def has_vtab(root: Path, *, task: Task) -> bool:
    """Whether `read_vtab` finds the folder of the task; its lists are not read."""
    try:
        return _find_task(root, task).is_dir()
    except DataError:
        return False


def vtab_means(accuracies: Mapping[str, float]) -> dict[str, float]:
    """Means as published tables take them: "natural", "specialized", "structured", and "mean_of_tasks" over all 19.

    The last one weighs every task alike, not every group.

    Args:
        accuracies: Accuracy by name of the task, for all 19: "cifar" or, as in the catalog, "vtab_cifar".
    Raises:
        InputError: Tasks are missing, unknown or given twice; names them.
    """
    tasks = [name.removeprefix(_PREFIX) for name in accuracies]
    known = [task.folder for task in TASKS]
    faults = {
        "unknown": sorted(set(tasks) - set(known)),
        "given twice": sorted({task for task in tasks if tasks.count(task) > 1}),
        "missing": [task for task in known if task not in tasks],
    }
    if any(faults.values()):
        listed = "; ".join(f"{what}: {', '.join(names)}" for what, names in faults.items() if names)
        raise InputError(f"the means of VTAB-1K need an accuracy for each of its 19 tasks; {listed}")
    by_task = dict(zip(tasks, accuracies.values(), strict=True))
    groups: dict[str, list[float]] = {}
    for task in TASKS:
        groups.setdefault(task.group, []).append(by_task[task.folder])
    groups["mean_of_tasks"] = list(by_task.values())
    return {name: sum(values) / len(values) for name, values in groups.items()}


def _find_task(root: Path, task: Task) -> Path:
    places = [root / above / task.folder for above in ("vtab-1k", "VTAB/vtab-1k", "")]
    if root.resolve().name == task.folder:
        places.append(root)
    return find_folder(f"VTAB-1K task {task.folder}", places, _LISTS)


def _read_list(file: Path, classes: int) -> ImageList:
    return image_list(file, _read_entries(file, classes))


def _read_entries(file: Path, classes: int) -> Iterator[Entry]:
    for number, line in read_lines(file):
        at = f"{file}, line {number}"
        path, label = [*line.rsplit(maxsplit=1), ""][:2]
        if not (label.isascii() and label.isdigit()):
            raise DataError(f"{at}: {line.strip()!r} is not 'path label' with a label from 0 to {classes - 1}.")
        if int(label) >= classes:
            raise DataError(f"{at}: label {label} is out of range; this task has the labels 0 to {classes - 1}.")
        yield Entry(path, int(label), at, at)


def _draw_val(whole: ImageList, seed: int) -> tuple[ImageList, ImageList]:
    if len(whole) < 2:
        raise DataError(f"{whole.file}: has one image only, too few to split validation images off.")
    drawn = set(random.Random(f"{seed}/{VAL}").sample(range(len(whole)), max(1, round(len(whole) / 5))))
    parts = [
        tuple(entry for index, entry in enumerate(whole.entries) if (index in drawn) == held_out) for held_out in (False, True)
    ]
    return ImageList(whole.file, parts[0]), ImageList(whole.file, parts[1])


def _check_union(whole: ImageList, train: ImageList, val: ImageList) -> None:
    """Check that train800val200.txt is what its name says."""
    parts = {entry.path: entry for entry in train.entries + val.entries}
    for entry in whole.entries:
        other = parts.pop(entry.path, None)
        if other is None:
            raise DataError(f"{entry.path_at}: {entry.path} is neither in {TRAIN} nor in {VAL}. Make the lists agree.")
        if other.class_id != entry.class_id:
            raise DataError(
                f"{entry.class_at}: label {entry.class_id}, but {other.class_id} in {other.class_at}. Make the lists agree."
            )
    for entry in parts.values():
        raise DataError(
            f"{entry.path_at}: {entry.path} is not in {whole.file}, {len(parts)} are missing. Make the lists agree."
        )
