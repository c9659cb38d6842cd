"""Data sets that come as image files and lists of their parts: DTD, Food-101, GTSRB."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

from svp.data.named.lists import (
    ClassId,
    Entry,
    ImageList,
    as_split,
    check_apart,
    check_files,
    check_known,
    image_list,
    read_json,
    read_lines,
    read_text,
)
from svp.data.named.official import find_official
from svp.data.sources.folder import FolderSource
from svp.data.splits import DataError, Parts, Split, enumerate_some, shuffled


def read_dtd(root: Path, seed: int) -> Parts:
    """The Describable Textures in partition 1: images ``dtd/images/<class>/*.jpg``, lists ``dtd/labels/train1.txt`` etc.

    The released code of the paper trains on the training part alone.

    Raises:
        DataError: Something is missing, or a list does not fit the images.
    """
    folder = find_official("dtd", root) / "dtd"
    files = {part: folder / "labels" / f"{part}1.txt" for part in ("train", "val", "test")}
    lists = {part: image_list(file, _dtd_entries(file)) for part, file in files.items()}
    class_names, splits = _parts(folder / "images", lists, "official {}, partition 1")
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
    lists = {part: image_list(file, _food_entries(file)) for part, file in files.items()}
    class_names, splits = _parts(folder / "images", lists, "official {}")
    return Parts(folder / "images", class_names, splits, _first_80_percent(splits["train"], seed))


def read_gtsrb(root: Path, seed: int) -> Parts:
    """GTSRB: ``GTSRB/Training/<class>/*.ppm``, ``GTSRB/Final_Test/Images/*.ppm`` with ``GT-final_test.csv``.

    The released code of the paper trains on 80% of the training part, drawn by seed.

    Raises:
        DataError: Something is missing, or the table does not fit the images.
    """
    folder = find_official("gtsrb", root)
    training = FolderSource(folder / "GTSRB" / "Training").parts()
    train = replace(training.splits["train"], origin="official train")
    labels: dict[ClassId, int] = {number: label for label, number in enumerate(_numbers(training))}
    table, images = folder / "GT-final_test.csv", folder / "GTSRB" / "Final_Test" / "Images"
    listed = image_list(table, _gtsrb_entries(table))
    check_known(listed, labels, str(training.root))
    check_files(images, [listed])
    splits = {"train": train, "test": as_split(listed, images, labels, "official test")}
    return Parts(folder / "GTSRB", training.class_names, splits, _first_80_percent(train, seed))


def _parts(images: Path, lists: Mapping[str, ImageList], origin: str) -> tuple[tuple[str, ...], dict[str, Split]]:
    """The classes of the training list in alphabetical order, and the lists as parts, checked against it and the images."""
    class_names = tuple(sorted({str(entry.class_id) for entry in lists["train"].entries}))
    labels: dict[ClassId, int] = {name: label for label, name in enumerate(class_names)}
    for listed in lists.values():
        check_known(listed, labels, lists["train"].file.name)
    check_files(images, lists.values())
    for first, second in combinations(lists.values(), 2):
        check_apart(first, second)
    return class_names, {part: as_split(listed, images, labels, origin.format(part)) for part, listed in lists.items()}


def _dtd_entries(file: Path) -> Iterator[Entry]:
    for number, line in read_lines(file):
        at = f"{file}, line {number}"
        class_name, _, name = line.strip().partition("/")
        if not class_name or not name or "/" in name:
            raise DataError(f"{at}: expected <class>/<file>.jpg, found {line!r}.")
        yield Entry(f"{class_name}/{name}", class_name, at, at)


def _food_entries(file: Path) -> Iterator[Entry]:
    lists = read_json(file)
    if not isinstance(lists, dict) or not all(isinstance(names, list) for names in lists.values()):
        raise DataError(f'{file}: expected one object of lists, {{"<class>": ["<class>/<id>", ...], ...}}.')
    for class_name, names in lists.items():
        for number, name in enumerate(names):
            at = f"{file}, {class_name}[{number}]"  # the published files have one line only
            if not isinstance(name, str) or not name.startswith(f"{class_name}/"):
                raise DataError(f"{at}: expected '{class_name}/<id>', found {name!r}.")
            yield Entry(f"{name}.jpg", class_name, at, at)


def _numbers(training: Parts) -> Sequence[int]:
    """Of the classes, which their folders are named by."""
    named = [name for name in training.class_names if not name.isdecimal()]
    if named:
        raise DataError(f"{training.root}: names of class folders are numbers, 00000 and on; found {enumerate_some(named)}.")
    return [int(name) for name in training.class_names]


def _gtsrb_entries(table: Path) -> Iterator[Entry]:
    rows = csv.DictReader(read_text(table).splitlines(), delimiter=";", skipinitialspace=True)
    absent = {"Filename", "ClassId"} - set(rows.fieldnames or ())
    if absent:
        raise DataError(f"{table}, line 1: no column {' and '.join(sorted(absent))}; columns are parted by semicolons.")
    for row in rows:
        at = f"{table}, line {rows.line_num}"
        number = row["ClassId"] or ""
        if not number.isdecimal():
            raise DataError(f"{at}: ClassId {number!r} is no number of a class.")
        yield Entry(row["Filename"] or "", int(number), at, at)


def _first_80_percent(train: Split, seed: int) -> Split:
    first = shuffled(len(train), seed)[: int(0.8 * len(train))]
    return train.take(first, f"first 80% of train after a shuffle by seed {seed}, as the released code")
