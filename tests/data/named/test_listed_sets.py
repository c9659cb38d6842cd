"""DTD, Food-101 and GTSRB from folders as they are published; torchvision's own classes say what is in them."""

import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import DTD, GTSRB, Food101

from svp.data import DataError, dataset_info, open_data
from svp.data.splits import Parts, Split
from tests.data.named.official import DTD_CLASSES, FOOD_CLASSES, GTSRB_CLASSES, write_dtd, write_food101, write_gtsrb

WRITERS = {"dtd": write_dtd, "food101": write_food101, "gtsrb": write_gtsrb}


def pairs(split: Split | None) -> list[tuple[Path, int]]:
    assert split is not None
    return list(zip(split.paths, split.labels, strict=True))


def as_listed(dataset: Any) -> list[tuple[Path, int]]:
    return [dataset[index] for index in range(len(dataset))]


@pytest.mark.parametrize("moved", [False, True], ids=["dtd/dtd", "dtd"])
def test_dtd(tmp_path: Path, moved: bool) -> None:
    write_dtd(tmp_path)
    expected = {part: as_listed(DTD(tmp_path, part, loader=Path)) for part in ("train", "val", "test")}
    if moved:  # unpacked by hand into the data root
        (tmp_path / "dtd").rename(tmp_path / "outer")
        (tmp_path / "outer" / "dtd").rename(tmp_path / "dtd")
        expected = {
            part: [(tmp_path / "dtd" / image.relative_to(tmp_path / "dtd" / "dtd"), label) for image, label in images]
            for part, images in expected.items()
        }
    parts = dataset_info("dtd").read(tmp_path, 0)
    assert parts.class_names == tuple(DTD_CLASSES)
    assert {part: pairs(split) for part, split in parts.splits.items()} == expected
    assert [split.origin for split in parts.splits.values()] == [
        f"official {part}, partition 1" for part in ("train", "val", "test")
    ]
    assert pairs(parts.paper_train) == expected["train"]
    assert parts.paper_train is not None
    assert parts.paper_train.origin == "official train without val, as the released code"


@pytest.mark.parametrize("place", ["", "food101"])
def test_food101(tmp_path: Path, place: str) -> None:
    write_food101(tmp_path / place)
    parts = dataset_info("food101").read(tmp_path, 0)
    assert parts.class_names == tuple(FOOD_CLASSES)
    for part in ("train", "test"):
        assert pairs(parts.splits[part]) == as_listed(Food101(tmp_path / place, part, loader=Path))
        assert parts.splits[part].origin == f"official {part}"


@pytest.mark.parametrize("moved", [False, True], ids=["gtsrb", "data root"])
def test_gtsrb(tmp_path: Path, moved: bool) -> None:
    folder = write_gtsrb(tmp_path)
    expected = {part: list(GTSRB(tmp_path, part)) for part in ("train", "test")}
    if moved:
        for entry in folder.iterdir():
            entry.rename(tmp_path / entry.name)
        folder.rmdir()
    parts = dataset_info("gtsrb").read(tmp_path, 0)
    assert parts.class_names == tuple(GTSRB_CLASSES)
    assert parts.ignored == ()
    for part, images in expected.items():
        assert parts.splits[part].origin == f"official {part}"
        for (path, label), (image, expected_label) in zip(pairs(parts.splits[part]), images, strict=True):
            assert label == expected_label
            assert np.array_equal(np.asarray(Image.open(path)), np.asarray(image))
    assert parts.splits["test"].labels == (16, 1, 38, 33, 11, 42)


@pytest.mark.parametrize(("name", "total", "kept"), [("food101", 21, 16), ("gtsrb", 86, 68)])
@pytest.mark.parametrize("seed", [0, 7])
def test_as_the_paper_trains(tmp_path: Path, name: str, total: int, kept: int, seed: int) -> None:
    WRITERS[name](tmp_path)
    parts = dataset_info(name).read(tmp_path, seed)
    expected = pairs(parts.splits["train"])
    assert len(expected) == total
    random.seed(seed)
    random.shuffle(expected)
    assert pairs(parts.paper_train) == expected[:kept]
    assert parts.paper_train is not None
    assert parts.paper_train.origin == f"first 80% of train after a shuffle by seed {seed}, as the released code"


@pytest.mark.parametrize("name", WRITERS)
def test_three_parts_ready_to_train_on(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path)
    # gtsrb has two images per class here: too few to split a part off twice, enough for once
    data = open_data(name, tmp_path, seed=1)
    assert data.name == name
    assert all(path.is_file() for split in (data.train, data.val, data.test) for path in split.paths)
    assert not set(data.train.paths) & set(data.val.paths)
    assert name == "dtd" or data.val.origin == "15% of official train, stratified, seed 1"
    assert data.summary()


@pytest.mark.parametrize("name", WRITERS)
def test_nothing_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=rf"{name} is not in {tmp_path}: no .* svp data fetch {name} --data-root {tmp_path}"):
        dataset_info(name).read(tmp_path, 0)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("dtd", "dtd/dtd/labels/val1.txt"),
        ("dtd", "dtd/dtd/images"),
        ("food101", "food-101/meta/test.json"),
        ("food101", "food-101/images"),
        ("gtsrb", "gtsrb/GT-final_test.csv"),
        ("gtsrb", "gtsrb/GTSRB/Training"),
        ("gtsrb", "gtsrb/GTSRB/Final_Test/Images"),
    ],
)
def test_incomplete(tmp_path: Path, name: str, path: str) -> None:
    WRITERS[name](tmp_path)
    assert dataset_info(name).is_present(tmp_path)
    missing = tmp_path / path
    shutil.rmtree(missing) if missing.is_dir() else missing.unlink()
    with pytest.raises(DataError, match=rf"{name} is incomplete: {missing} missing\. .*svp data fetch {name}"):
        dataset_info(name).read(tmp_path, 0)
    assert not dataset_info(name).is_present(tmp_path)


def edit(path: str, change: Callable[[str], str]) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        file = root / path
        file.write_text(change(file.read_text()))

    return apply


def remove(path: str) -> Callable[[Path], None]:
    return lambda root: (root / path).unlink()


def edit_json(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    return edit("food-101/meta/test.json", lambda text: json.dumps(change(json.loads(text))))


TRAIN1, TEST1 = "dtd/dtd/labels/train1.txt", "dtd/dtd/labels/test1.txt"
TABLE = "gtsrb/GT-final_test.csv"


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        (
            "dtd",
            remove("dtd/dtd/images/banded/banded_0001.jpg"),
            r"train1\.txt, line 1: there is no image .*banded/banded_0001\.jpg; 1 of the 12",
        ),
        ("dtd", edit(TRAIN1, lambda text: ""), r"labels/train1\.txt: the list is empty"),
        ("dtd", edit(TEST1, lambda text: ""), r"labels/test1\.txt: the list is empty"),
        (
            "dtd",
            edit(TEST1, lambda text: text + "banded_1.jpg\n"),
            r"test1\.txt, line 13: expected <class>/<file>\.jpg, found 'banded_1",
        ),
        ("dtd", edit(TEST1, lambda text: text + "a/b/c.jpg\n"), r"test1\.txt, line 13: expected <class>/<file>\.jpg"),
        ("dtd", edit(TEST1, lambda text: "\nbanded/\n" + text), r"test1\.txt, line 2: expected <class>/<file>\.jpg, found 'b"),
        ("dtd", edit(TEST1, lambda text: "banded/1.jpg\n" + text), r"test1\.txt, line 1: there is no image .*banded/1\.jpg"),
        (
            "dtd",
            edit(TEST1, lambda text: "lined/1.jpg\n" + text),
            r"test1\.txt, line 1: class lined of lined/1\.jpg is not among the 4 of train1\.txt",
        ),
        (
            "dtd",
            edit(TRAIN1, lambda text: text.replace("zig", "banded/zig")),
            r"train1\.txt, line 10: expected <class>/<file>\.jpg",
        ),
        (
            "dtd",
            edit(TRAIN1, lambda text: text[: text.index("zig")]),
            r"val1\.txt, line 10: class zigzagged of .* not among the 3 of train1\.txt",
        ),
        (
            "dtd",
            edit(TEST1, lambda text: text + text),
            r"test1\.txt, line 13: .* is listed before already, by .*test1\.txt, line 1\.",
        ),
        (
            "dtd",
            edit(TEST1, lambda text: text + "banded/banded_0001.jpg\n"),
            r"test1\.txt, line 13: banded/banded_0001\.jpg is in .*train1\.txt, line 1, too; 1 of 13 images are in both",
        ),
        ("dtd", lambda root: (root / TEST1).write_bytes(b"banded/1\n\xff\xfe"), r"test1\.txt, line 2: is not text in UTF-8"),
        (
            "food101",
            remove("food-101/images/waffles/1000.jpg"),
            r"train\.json, waffles\[0\]: there is no image .*waffles/1000\.jpg",
        ),
        ("food101", edit("food-101/meta/train.json", lambda text: text[:-9]), r"train\.json, line 1: damaged JSON"),
        ("food101", edit_json(lambda lists: []), "test.json: expected one object of lists"),
        ("food101", edit_json(lambda lists: {"waffles": "waffles/1"}), "test.json: expected one object of lists"),
        ("food101", edit_json(lambda lists: {"waffles": []}), r"meta/test\.json: the list is empty"),
        ("food101", edit_json(lambda lists: {"waffles": [1]}), r"test.json, waffles\[0\]: expected 'waffles/<id>', found 1"),
        ("food101", edit_json(lambda lists: {"waffles": ["pie/1"]}), r"test.json, waffles\[0\]: expected .*found 'pie/1'"),
        (
            "food101",
            edit("food-101/meta/train.json", lambda text: json.dumps({"waffles": json.loads(text)["waffles"]})),
            r"test\.json, baby_back_ribs\[0\]: class baby_back_ribs of .* is not among the 1 of train\.json",
        ),
        (
            "gtsrb",
            remove("gtsrb/GTSRB/Final_Test/Images/00002.ppm"),
            r"final_test\.csv, line 4: there is no image .*/00002\.ppm",
        ),
        (
            "gtsrb",
            edit(TABLE, lambda text: text.replace(";38", ";43")),
            r"GT-final_test\.csv, line 4: class 43 of 00002\.ppm is not among the 43 of .*Training",
        ),
        (
            "gtsrb",
            edit(TABLE, lambda text: text.replace(";38", ";-1")),
            r"GT-final_test\.csv, line 4: ClassId '-1' is no number",
        ),
        ("gtsrb", edit(TABLE, lambda text: text.replace(";38", "")), r"GT-final_test\.csv, line 4: ClassId '' is no number"),
        (
            "gtsrb",
            edit(TABLE, lambda text: text.replace(";", ",")),
            r"GT-final_test\.csv, line 1: no column ClassId and Filename",
        ),
        ("gtsrb", edit(TABLE, lambda text: ""), r"GT-final_test\.csv, line 1: no column"),
        ("gtsrb", edit(TABLE, lambda text: text.splitlines()[0]), r"GT-final_test\.csv: the list is empty"),
        (
            "gtsrb",
            edit(TABLE, lambda text: text.replace("00002", "00001")),
            r"csv, line 4: 00001\.ppm is listed before already, by .*csv, line 3\.",
        ),
        ("gtsrb", edit(TABLE, lambda text: text.replace("00002.ppm", "")), r"csv, line 4: '' is no path of an image"),
        (
            "gtsrb",
            lambda root: (root / "gtsrb/GTSRB/Training/00003").rename(root / "gtsrb/GTSRB/Training/stop"),
            "Training: names of class folders are numbers, .*found stop",
        ),
        (
            "gtsrb",
            lambda root: [image.unlink() for image in (root / "gtsrb/GTSRB/Training/00003").glob("*.ppm")],
            "no images in 1 of 43 class folders: 00003",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, name: str, damage: Callable[[Path], object], message: str) -> None:
    WRITERS[name](tmp_path)
    damage(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        dataset_info(name).read(tmp_path, 0)
    assert re.search(re.escape(str(tmp_path)), str(caught.value))


def test_empty_lines_and_byte_order_marks_are_no_images(tmp_path: Path) -> None:
    folder = write_dtd(tmp_path) / "labels"
    parts = dataset_info("dtd").read(tmp_path, 0)
    for part in ("train", "test"):
        file = folder / f"{part}1.txt"
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n\r\n"))
    assert dataset_info("dtd").read(tmp_path, 0) == parts


def test_a_class_without_test_images_is_said(tmp_path: Path) -> None:
    write_gtsrb(tmp_path)
    parts: Parts = dataset_info("gtsrb").read(tmp_path, 0)
    assert len(parts.class_names) == 43
    assert "test has no image of 00000" in open_data("gtsrb", tmp_path).summary()
