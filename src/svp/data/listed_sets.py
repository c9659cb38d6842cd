"""Data sets that come as image files and lists of their parts: DTD, Food-101, GTSRB."""

from __future__ import annotations

import csv
import json
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from svp.data.folder import read_folder
from svp.data.official import find_official
from svp.data.splits import DataError, Parts, Split, enumerate_some


class Listed(NamedTuple):
    """An image in a list, and where it stands there, e.g. "labels/train1.txt:3"."""

    where: str
    path: Path
    class_name: str


def read_dtd(root: Path, seed: int) -> Parts:
    """The Describable Textures in partition 1: images ``dtd/images/<class>/*.jpg``, lists ``dtd/labels/train1.txt`` etc.

    The released code of the paper trains on the training part alone.

    Raises:
        DataError: Something is missing, or a list does not fit the images.
    """
    folder = find_official("dtd", root) / "dtd"
    files = {part: folder / "labels" / f"{part}1.txt" for part in ("train", "val", "test")}
    listed = {file: list(_dtd_images(file, folder / "images")) for file in files.values()}
    _check_images(listed)
    class_names = tuple(sorted({image.class_name for image in listed[files["train"]]}))
    splits = {part: _as_split(listed[file], class_names, f"official {part}, partition 1") for part, file in files.items()}
    paper_train = replace(splits["train"], origin="official train without val, as the released code")
    return Parts(folder / "images", class_names, splits, paper_train)


def read_food101(root: Path, seed: int) -> Parts:
    """Food-101: images ``food-101/images/<class>/<id>.jpg``, lists ``food-101/meta/{train,test}.json``.

    The released code of the paper trains on 80% of the training part, drawn by seed.

    Raises:
        DataError: Something is missing, or a list does not fit the images.
    """
    folder = find_official("food101", root) / "food-101"
    files = {part: folder / "meta" / f"{part}.json" for part in ("train", "test")}
    listed = {file: list(_food_images(file, folder / "images")) for file in files.values()}
    _check_images(listed)
    class_names = tuple(sorted({image.class_name for image in listed[files["train"]]}))
    splits = {part: _as_split(listed[file], class_names, f"official {part}") for part, file in files.items()}
    return Parts(folder / "images", class_names, splits, _first_80_percent(splits["train"], seed))


def read_gtsrb(root: Path, seed: int) -> Parts:
    """GTSRB: ``GTSRB/Training/<class>/*.ppm``, ``GTSRB/Final_Test/Images/*.ppm`` with ``GT-final_test.csv``.

    The released code of the paper trains on 80% of the training part, drawn by seed.

    Raises:
        DataError: Something is missing, or the table does not fit the images.
    """
    folder = find_official("gtsrb", root)
    training = read_folder(folder / "GTSRB" / "Training")
    table = folder / "GT-final_test.csv"
    listed = list(_gtsrb_images(table, folder / "GTSRB" / "Final_Test" / "Images", training.class_names))
    _check_images({table: listed})
    train = replace(training.splits["train"], origin="official train")
    splits = {"train": train, "test": _as_split(listed, training.class_names, "official test")}
    return Parts(folder / "GTSRB", training.class_names, splits, _first_80_percent(train, seed))


def _dtd_images(file: Path, images: Path) -> Iterator[Listed]:
    for number, line in enumerate(_text(file).splitlines(), start=1):
        class_name, _, name = line.strip().partition("/")
        if not class_name or not name or "/" in name:
            raise DataError(f"{file}:{number}: expected <class>/<file>.jpg, found {line!r}.")
        yield Listed(f"{file}:{number}", images / class_name / name, class_name)


def _food_images(file: Path, images: Path) -> Iterator[Listed]:
    try:
        lists = json.loads(_text(file))
    except json.JSONDecodeError as error:
        raise DataError(f"{file}:{error.lineno}: not JSON, {error.msg} in column {error.colno}.") from error
    if not isinstance(lists, dict) or not all(isinstance(names, list) for names in lists.values()):
        raise DataError(f'{file}: expected one object of lists, {{"<class>": ["<class>/<id>", ...], ...}}.')
    for class_name, names in lists.items():
        for number, name in enumerate(names):
            where = f"{file}, {class_name}[{number}]"  # the published files have one line only
            if not isinstance(name, str) or not name.startswith(f"{class_name}/"):
                raise DataError(f"{where}: expected '{class_name}/<id>', found {name!r}.")
            yield Listed(where, images / f"{name}.jpg", class_name)


def _gtsrb_images(table: Path, images: Path, class_names: Sequence[str]) -> Iterator[Listed]:
    named = [name for name in class_names if not name.isdecimal()]
    if named:
        folder = images.parents[1] / "Training"
        raise DataError(f"{folder}: names of class folders are numbers, 00000 and on; found {enumerate_some(named)}.")
    classes = {int(name): name for name in class_names}
    rows = csv.DictReader(_text(table).splitlines(), delimiter=";", skipinitialspace=True)
    absent = {"Filename", "ClassId"} - set(rows.fieldnames or ())
    if absent:
        raise DataError(f"{table}:1: no column {' and '.join(sorted(absent))}; columns are parted by semicolons.")
    for row in rows:
        where = f"{table}:{rows.line_num}"
        number = row["ClassId"] or ""
        if not number.isdecimal() or int(number) not in classes:
            raise DataError(
                f"{where}: ClassId {number!r} is none of the class folders, {class_names[0]} to {class_names[-1]}."
            )
        yield Listed(where, images / (row["Filename"] or ""), classes[int(number)])


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not a text file ({error.reason} at byte {error.start}). Unpack it again.") from error


def _check_images(lists: Mapping[Path, Sequence[Listed]]) -> None:
    """No list is empty; every image exists and is listed once, so that parts are disjoint.

    A folder is read once rather than asked for each of its files: Food-101 has 101,000.

    Raises:
        DataError: It is not so; names the list and the place in it.
    """
    names: dict[Path, set[str]] = {}
    seen: dict[Path, str] = {}
    for file, listed in lists.items():
        if not listed:
            raise DataError(f"{file}: lists no image. Unpack it again.")
        for where, path, _ in listed:
            folder = path.parent
            if folder not in names:
                names[folder] = {entry.name for entry in os.scandir(folder)} if folder.is_dir() else set()
            if path.name not in names[folder]:
                raise DataError(f"{where}: there is no {path}. Unpack the images again, or take it off the list.")
            if path in seen:
                raise DataError(f"{where}: {path} is also listed at {seen[path]}. An image may be listed once.")
            seen[path] = where


def _as_split(listed: Sequence[Listed], class_names: Sequence[str], origin: str) -> Split:
    labels = {name: label for label, name in enumerate(class_names)}
    for image in listed:
        if image.class_name not in labels:
            raise DataError(f"{image.where}: class {image.class_name!r} has no training images.")
    return Split(tuple(image.path for image in listed), tuple(labels[image.class_name] for image in listed), origin)


def _first_80_percent(train: Split, seed: int) -> Split:
    pairs = list(zip(train.paths, train.labels, strict=True))
    random.Random(seed).shuffle(pairs)
    kept = pairs[: int(0.8 * len(pairs))]
    origin = f"first 80% of train after a shuffle by seed {seed}, as the released code"
    return Split(tuple(path for path, _ in kept), tuple(label for _, label in kept), origin)
