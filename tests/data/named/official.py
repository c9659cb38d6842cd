"""Small copies of data sets as their authors publish them: the same folders, file names, lists and formats."""

import json
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

CIFAR10_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
CIFAR100_CLASSES = [*(f"class_{number:03d}" for number in range(97)), "test_tube", "train", "worm"]  # "train" is real
DTD_CLASSES = ["banded", "blotchy", "polka-dotted", "zigzagged"]
FOOD_CLASSES = ["apple_pie", "baby_back_ribs", "waffles"]
GTSRB_CLASSES = [f"{number:05d}" for number in range(43)]


def write_cifar10(root: Path, per_class: int = 1, **changes: Any) -> Path:
    """Five batches of `per_class` images of every class, in mixed order."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    write_python2_pickle(folder / "batches.meta", {"num_cases_per_batch": 10, "label_names": CIFAR10_CLASSES, "num_vis": 3072})
    for number, name in enumerate([*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]):
        labels = mixed_labels(10, per_class, seed=number)
        batch = {
            "batch_label": f"batch {number}",
            "labels": labels,
            "data": noise(len(labels), 3072, seed=number),
            "filenames": [f"{label}_s_{index:06d}.png" for index, label in enumerate(labels)],
        }
        write_python2_pickle(folder / name, batch | changes)
    return folder


def write_cifar100(root: Path) -> Path:
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    coarse = [f"group_{number:02d}" for number in range(20)]
    write_python2_pickle(folder / "meta", {"fine_label_names": CIFAR100_CLASSES, "coarse_label_names": coarse})
    for name, per_class in (("train", 3), ("test", 1)):
        labels = mixed_labels(100, per_class, seed=per_class)
        batch = {
            "fine_labels": labels,
            "coarse_labels": [label // 5 for label in labels],
            "data": noise(len(labels), 3072, seed=per_class),
        }
        write_python2_pickle(folder / name, batch)
    return folder


def write_svhn(root: Path, **changes: Any) -> Path:
    """The "10" of the files is the digit 0."""
    from scipy.io import savemat

    root.mkdir(parents=True, exist_ok=True)
    for part, per_class in (("train", 5), ("test", 2)):
        labels = np.array(mixed_labels(10, per_class, seed=per_class), np.uint8)[:, None]
        labels[labels == 0] = 10
        images = noise(32, 32, 3, len(labels), seed=per_class)
        savemat(root / f"{part}_32x32.mat", {"X": images, "y": labels} | changes)
    return root


def write_dtd(root: Path) -> Path:
    """Partitions 1 and 2, which differ, of images of different sizes."""
    folder = root / "dtd" / "dtd"
    names = [f"{class_name}/{class_name}_{number:04d}.jpg" for class_name in DTD_CLASSES for number in range(9)]
    for seed, name in enumerate(names):
        write_image(folder / "images" / name, seed, width=20 + seed % 5)
    (folder / "labels").mkdir()
    (folder / "labels" / "labels_joint_anno.txt").write_text("".join(f"{name} {name.split('/')[0]}\n" for name in names))
    for partition in (1, 2):
        for offset, part in enumerate(("train", "val", "test")):
            listed = names[(offset + partition) % 3 :: 3]
            (folder / "labels" / f"{part}{partition}.txt").write_text("".join(f"{name}\n" for name in listed))
    return folder


def write_food101(root: Path) -> Path:
    """Lists in an order that is not that of the alphabet, as the published ones."""
    folder = root / "food-101"
    (folder / "meta").mkdir(parents=True)
    (folder / "meta" / "classes.txt").write_text("\n".join(FOOD_CLASSES))
    (folder / "meta" / "labels.txt").write_text("\n".join(name.replace("_", " ").capitalize() for name in FOOD_CLASSES))
    for part, numbers in (("train", range(7)), ("test", range(7, 10))):
        lists = {name: [f"{name}/{1000 + 37 * number % 100}" for number in numbers] for name in reversed(FOOD_CLASSES)}
        (folder / "meta" / f"{part}.json").write_text(json.dumps(lists))
        (folder / "meta" / f"{part}.txt").write_text("\n".join(image for images in lists.values() for image in images))
        for seed, image in enumerate(image for images in lists.values() for image in images):
            write_image(folder / "images" / f"{image}.jpg", seed)
    return folder


def write_gtsrb(root: Path) -> Path:
    """Two tracks of a frame each per class to train on; test images of some classes only."""
    folder = root / "gtsrb"
    header = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"
    for label, name in enumerate(GTSRB_CLASSES):
        images = [f"{track:05d}_00000.ppm" for track in range(2)]
        for image in images:
            write_image(folder / "GTSRB" / "Training" / name / image, label)
        rows = [header, *(f"{image};24;20;5;5;19;15;{label}" for image in images)]
        (folder / "GTSRB" / "Training" / name / f"GT-{name}.csv").write_text("\n".join(rows) + "\n")
    labels = [16, 1, 38, 33, 11, 42]
    for number in range(len(labels)):
        write_image(folder / "GTSRB" / "Final_Test" / "Images" / f"{number:05d}.ppm", number)
    rows = [header, *(f"{number:05d}.ppm;24;20;5;5;19;15;{label}" for number, label in enumerate(labels))]
    (folder / "GT-final_test.csv").write_text("\r\n".join(rows) + "\r\n")
    return folder


def pack(folder: Path, archive: Path) -> Path:
    """What lies in `folder` as a .tar.gz or .zip."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as file:
            for path in sorted(folder.rglob("*")):
                file.write(path, path.relative_to(folder))
    else:
        with tarfile.open(archive, "w:gz") as tar:
            for path in sorted(folder.iterdir()):
                tar.add(path, path.name)
    return archive


def write_image(file: Path, seed: int, width: int = 24) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(20, width, 3, seed=seed)).save(file)


def noise(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def mixed_labels(classes: int, per_class: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(classes), per_class)).tolist()


def write_python2_pickle(file: Path, content: dict[str, Any]) -> None:
    """As the cPickle of Python 2 writes it: texts and bytes are one type, and NumPy has its old name."""
    with file.open("wb") as stream:
        _Python2Pickler(stream, protocol=2).dump(content)


class _Python2Pickler(pickle._Pickler):  # the one in C cannot be changed
    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)

    def save_string(self, text: str | bytes) -> None:
        data = text.encode("latin1") if isinstance(text, str) else text
        self.write(b"T" + struct.pack("<i", len(data)) + data)
        self.memoize(text)

    def save_global(self, function: Any, name: str | None = None) -> None:
        if getattr(function, "__name__", "") == "_reconstruct":
            self.write(b"cnumpy.core.multiarray\n_reconstruct\n")
            self.memoize(function)
        else:
            super().save_global(function, name)

    dispatch[str] = dispatch[bytes] = save_string
