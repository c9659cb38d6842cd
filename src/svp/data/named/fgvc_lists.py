"""The lists that come with the fine-grained data sets themselves: text tables of the bird sets, MATLAB files of the others.

Every function reads the lists of a folder as "train" and, where the data set has them, "val" and "test"; or names of
classes, by class id, with the file that they are from.

Raises:
    DataError: A list is missing or damaged; the message names it and the line, in MATLAB files the element, as in trnid(3).
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from svp.data.named.lists import ClassId, Entry, ImageList, image_list, read_lines
from svp.data.splits import DataError

Lists = dict[str, ImageList]
ClassNames = tuple[Path, dict[ClassId, str]]


def read_birds(folder: Path) -> Lists:
    """CUB-200-2011 and NABirds: images.txt, image_class_labels.txt and train_test_split.txt, each with a line per image."""
    names = "images.txt", "image_class_labels.txt", "train_test_split.txt"
    _need(folder, *names)
    tables = [_table(folder / name) for name in names]
    entries: dict[str, list[Entry]] = {"1": [], "0": []}  # whether it is for training
    for image, (line, path) in tables[0].items():
        found = [table.get(image) for table in tables[1:]]
        for name, row in zip(names[1:], found, strict=True):
            if row is None:
                raise DataError(f"{folder / name}: no line for image {image}, which is in {names[0]}, line {line}.")
        (class_line, class_id), (split_line, is_train) = (row for row in found if row)
        if is_train not in entries:
            raise DataError(f"{folder / names[2]}, line {split_line}: {is_train!r} is neither 1 (training) nor 0 (test).")
        class_at = f"{folder / names[1]}, line {class_line}"
        if not class_id.isdecimal():
            raise DataError(f"{class_at}: {class_id!r} is no number of a class.")
        entries[is_train].append(Entry(path, int(class_id), f"{folder / names[0]}, line {line}", class_at))
    file = folder / names[2]
    return {"train": image_list(file, entries["1"], "training part"), "test": image_list(file, entries["0"], "test part")}


def read_flowers(folder: Path) -> Lists:
    """Oxford Flowers: setid.mat holds the numbers of the images of each part, imagelabels.mat their classes."""
    _need(folder, "setid.mat", "imagelabels.mat")
    variables = {"train": "trnid", "val": "valid", "test": "tstid"}
    (labels,) = _load(folder / "imagelabels.mat", "labels")
    file = folder / "setid.mat"

    def entries(variable: str, numbers: Iterable[Any]) -> Iterator[Entry]:
        for index, number in enumerate(numbers, 1):
            at = f"{file}, {variable}({index})"
            number = _whole(number, at)
            if not 1 <= number <= len(labels):
                raise DataError(f"{at}: image {number}, but imagelabels.mat has the images 1 to {len(labels)}.")
            class_at = f"{folder / 'imagelabels.mat'}, labels({number})"
            yield Entry(f"jpg/image_{number:05d}.jpg", _whole(labels[number - 1], class_at), at, class_at)

    sets = zip(variables.items(), _load(file, *variables.values()), strict=True)
    return {part: image_list(file, entries(variable, numbers), f"list {variable}") for (part, variable), numbers in sets}


def read_dogs(folder: Path) -> Lists:
    """Stanford Dogs: train_list.mat and test_list.mat; some copies have file_list.mat alone, which has all images."""
    files = {"train": folder / "train_list.mat", "test": folder / "test_list.mat"}
    if not any(file.exists() for file in files.values()) and (folder / "file_list.mat").exists():
        files = {"train": folder / "file_list.mat"}
    _need(folder, *(file.name for file in files.values()))
    return {part: image_list(file, _dogs_entries(file)) for part, file in files.items()}


def read_cars(folder: Path) -> Lists:
    """Stanford Cars: annotations of the development kit, the labels of the test images beside it or in it."""
    annotations = {"train": "devkit/cars_train_annos.mat", "test": "devkit/cars_test_annos_withlabels.mat"}
    if (folder / "cars_test_annos_withlabels.mat").exists():
        annotations["test"] = "cars_test_annos_withlabels.mat"
    _need(folder, *annotations.values())
    return {part: image_list(folder / name, _cars_entries(folder / name, part)) for part, name in annotations.items()}


def bird_names(folder: Path) -> ClassNames | None:
    """classes.txt, "number name" per line."""
    file = folder / "classes.txt"
    if not file.exists():
        return None
    names: dict[ClassId, str] = {}
    for number, (line, name) in _table(file).items():
        if not number.isdecimal():
            raise DataError(f"{file}, line {line}: {number!r} is no number of a class.")
        names[int(number)] = name
    return file, names


def car_names(folder: Path) -> ClassNames | None:
    """cars_meta.mat of the development kit."""
    file = folder / "devkit" / "cars_meta.mat"
    if not file.exists():
        return None
    (names,) = _load(file, "class_names")
    return file, {number: str(name) for number, name in enumerate(names, 1)}


def _need(folder: Path, *names: str) -> None:
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        raise DataError(
            f"{folder}: {', '.join(missing)} missing. Expected the data set's own lists ({', '.join(names)}), "
            "or the split files train.json and test.json."
        )


def _table(file: Path) -> dict[str, tuple[int, str]]:
    """Line number and the rest of the line, by its first word."""
    rows: dict[str, tuple[int, str]] = {}
    for number, line in read_lines(file):
        fields = line.strip().split(maxsplit=1)
        if len(fields) < 2:
            raise DataError(f"{file}, line {number}: {line.strip()!r} is not two fields with a blank between them.")
        if fields[0] in rows:
            raise DataError(f"{file}, line {number}: {fields[0]} has a line before already, {rows[fields[0]][0]}.")
        rows[fields[0]] = number, fields[1]
    return rows


def _dogs_entries(file: Path) -> Iterator[Entry]:
    paths, labels = _load(file, "file_list", "labels")
    if len(paths) != len(labels):
        raise DataError(f"{file}: {len(paths)} paths in file_list but {len(labels)} labels. Fetch the file again.")
    for index, (path, label) in enumerate(zip(paths, labels, strict=True), 1):
        class_at = f"{file}, labels({index})"
        yield Entry(str(path), _whole(label, class_at), f"{file}, file_list({index})", class_at)


def _cars_entries(file: Path, part: str) -> Iterator[Entry]:
    (rows,) = _load(file, "annotations")
    missing = sorted({"fname", "class"} - set(rows.dtype.names or ()))
    if missing:
        raise DataError(f"{file}: annotations have no field {' and no '.join(missing)}. Fetch the file again.")
    for index, row in enumerate(rows, 1):
        at = f"{file}, annotations({index})"
        yield Entry(f"cars_{part}/{row['fname']}", _whole(row["class"], at), at, at)


def _load(file: Path, *variables: str) -> Sequence[Any]:
    """One-dimensional arrays of a MATLAB file."""
    import numpy as np
    from scipy.io import loadmat

    try:
        content = loadmat(file, squeeze_me=True)
    except Exception as error:  # scipy raises half a dozen kinds, among them zlib's
        raise DataError(f"{file}: cannot be read as a MATLAB file ({error}). Fetch it again.") from error
    missing = [name for name in variables if name not in content]
    if missing:
        found = ", ".join(name for name in content if not name.startswith("__"))
        raise DataError(f"{file}: no variable {' and no '.join(missing)}; it has {found or 'none'}. Fetch it again.")
    return [np.atleast_1d(content[name]) for name in variables]


def _whole(value: Any, at: str) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = None
    if number is None or number != value:
        raise DataError(f"{at}: {value!r} is no whole number. Fetch the file again.")
    return number
