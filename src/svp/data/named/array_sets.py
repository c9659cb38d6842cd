"""Data sets that come as arrays, read from their official files and written out once as PNG.

<root>/cifar10/images/{train,test}/<class>/<number>.png      number: place in the official files, from 00000
<root>/cifar100/images/...     <root>/svhn/images/...
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from svp.data.named.official import find_official, has_official
from svp.data.sources.folder import FolderSource
from svp.data.sources.unpacked import unpacked
from svp.data.splits import DataError, Parts, enumerate_some

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Pixels = npt.NDArray[np.uint8]
    """RGB images, (images, 32, 32, 3)."""


def read_cifar10(root: Path, seed: int) -> Parts:
    """CIFAR-10 from ``cifar-10-batches-py``; the released code of the paper trains on the whole training part.

    Raises:
        DataError: Files are missing, damaged or not those of CIFAR-10.
    """
    batches = [f"data_batch_{number}" for number in range(1, 6)]
    return _read("cifar10", root, _Cifar("cifar-10-batches-py", batches, "test_batch", "batches.meta", "label"))


def read_cifar100(root: Path, seed: int) -> Parts:
    """CIFAR-100 with its 100 fine classes, from ``cifar-100-python``.

    Raises:
        DataError: Files are missing, damaged or not those of CIFAR-100.
    """
    return _read("cifar100", root, _Cifar("cifar-100-python", ["train"], "test", "meta", "fine_label"))


def read_svhn(root: Path, seed: int) -> Parts:
    """The cropped digits of SVHN, from ``train_32x32.mat`` and ``test_32x32.mat``; "10" in these files is the digit 0.

    The released code of the paper trains on the first 80% of the training images in the order of the file.

    Raises:
        DataError: A file is missing or damaged.
    """
    parts = _read("svhn", root, _Svhn())
    train = parts.splits["train"]
    in_file_order = sorted(range(len(train)), key=lambda index: train.paths[index].name)
    first = in_file_order[: int(0.8 * len(train))]
    return replace(parts, paper_train=train.take(first, "first 80% of train in file order, as the released code"))


def has_images(name: str, root: Path) -> bool:
    """Whether the images are written out below `root`, or can be without network."""
    return (_images(name, root) / ".complete").is_file() or has_official(name, root)


def _images(name: str, root: Path) -> Path:
    return root / name / "images"


def _read(name: str, root: Path, files: _Cifar | _Svhn) -> Parts:
    def write(folder: Path) -> None:
        official = find_official(name, root)
        class_names = files.class_names(official)
        read = {part: list(files.read(official, part, class_names)) for part in ("train", "test")}  # all or nothing
        present = {label for _, labels in read["train"] for label in labels}
        absent = [name for label, name in enumerate(class_names) if label not in present]
        if absent:
            raise DataError(f"{official}: no training image of {name} is of class {enumerate_some(absent)}. Fetch it again.")
        for part, batches in read.items():
            images = (pair for pixels, labels in batches for pair in zip(pixels, labels, strict=True))
            for number, (image, label) in enumerate(images):
                _write_png(image, folder / part / class_names[label] / f"{number:05d}.png")

    parts = FolderSource(unpacked(_images(name, root), f"written from the official files of {name}", write)).parts()
    splits = {part: replace(split, origin=f"official {part}") for part, split in parts.splits.items()}
    return replace(parts, splits=splits)


def _write_png(pixels: Pixels, file: Path) -> None:
    from PIL import Image

    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


@dataclass(frozen=True)
class _Cifar:
    """The "python version" of CIFAR: pickles of Python 2."""

    folder: str
    train: Sequence[str]
    test: str
    meta: str
    label: str

    def class_names(self, official: Path) -> list[str]:
        file = official / self.folder / self.meta
        names = _unpickle(file).get(f"{self.label}_names")
        if not isinstance(names, list) or len(names) < 2 or len(set(map(str, names))) < len(names):
            raise DataError(f"{file}: expected a list of different class names under {self.label}_names. Fetch it again.")
        for name in names:
            # it will be the name of a folder
            if not isinstance(name, str) or not name or name.startswith(".") or Path(name).name != name:
                raise DataError(f"{file}: {name!r} is no class name. Fetch it again.")
        return names

    def read(self, official: Path, part: str, class_names: Sequence[str]) -> Iterator[tuple[Pixels, list[int]]]:
        for name in self.train if part == "train" else [self.test]:
            file = official / self.folder / name
            batch = _unpickle(file)
            data: Any = batch.get("data")
            labels = batch.get(f"{self.label}s")
            if getattr(data, "dtype", None) != "uint8" or data.ndim != 2 or data.shape[1] != 3 * 32 * 32:
                raise DataError(f"{file}: expected data of shape (images, 3072), uint8. Fetch it again.")
            if not isinstance(labels, list):
                raise DataError(f"{file}: expected a list under {self.label}s. Fetch it again.")
            _check_labels(file, labels, len(data), range(len(class_names)))
            yield data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels


@dataclass(frozen=True)
class _Svhn:
    """Format 2 of SVHN: MATLAB files of 32 x 32 pixels around one digit."""

    def class_names(self, official: Path) -> list[str]:
        return [str(digit) for digit in range(10)]

    def read(self, official: Path, part: str, class_names: Sequence[str]) -> Iterator[tuple[Pixels, list[int]]]:
        from scipy.io import loadmat

        file = official / f"{part}_32x32.mat"
        try:
            content = loadmat(file, variable_names=["X", "y"])
        except Exception as error:  # on arbitrary bytes scipy fails in any way
            raise DataError(f"{file}: not a MATLAB file, or a damaged one ({error}). Remove it and fetch it again.") from error
        images, labels = content.get("X"), content.get("y")
        if getattr(images, "dtype", None) != "uint8" or images.ndim != 4 or images.shape[:3] != (32, 32, 3):
            raise DataError(f"{file}: expected X of shape (32, 32, 3, images), uint8. Remove it and fetch it again.")
        digits = [] if labels is None else labels.ravel().tolist()
        _check_labels(file, digits, images.shape[3], range(1, 11))
        yield images.transpose(3, 0, 1, 2), [digit % 10 for digit in digits]


def _check_labels(file: Path, labels: Sequence[object], images: int, known: range) -> None:
    if not images or len(labels) != images:
        raise DataError(f"{file}: {images} images and {len(labels)} labels. Remove it and fetch it again.")
    for number, label in enumerate(labels):
        if type(label) is not int or label not in known:
            raise DataError(
                f"{file}: image {number} has label {label!r}; labels are {known.start} to {known.stop - 1}. "
                "Remove it and fetch it again."
            )


def _unpickle(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        try:
            content = _ArrayUnpickler(stream).load()
        except Exception as error:  # on arbitrary bytes pickle fails in any way
            raise DataError(f"{file}: not a file of CIFAR, or a damaged one ({error}). Fetch it again.") from error
    if not isinstance(content, dict):
        raise DataError(f"{file}: expected a dictionary, found {type(content).__name__}. Fetch it again.")
    return content


class _ArrayUnpickler(pickle.Unpickler):
    """Reads arrays of numbers in dictionaries and lists; whatever else a pickle may name is not looked up."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="latin1")  # as NumPy asks for arrays of Python 2

    def find_class(self, module: str, name: str) -> Any:
        import numpy as np

        known = {"ndarray": np.ndarray, "dtype": np.dtype, "_reconstruct": np.empty(0).__reduce__()[0]}
        if module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray") and name in known:
            return known[name]
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no file of CIFAR does")
