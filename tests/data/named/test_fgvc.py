"""The fine-grained data sets: split files of VPT, the data sets' own lists, and each way in which they can be wrong."""

import json
import shutil
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import loadmat, savemat

import svp
from svp.data import DataError, ImageData, Split, dataset_info, open_data
from svp.data.named.fgvc import has_fgvc, read_fgvc, read_fraction
from tests.data.named.official_lists import (
    write_birds,
    write_cars,
    write_cars_list,
    write_cub200,
    write_dogs,
    write_dogs_list,
    write_flowers,
    write_image,
    write_images,
    write_lines,
    write_nabirds,
    write_vpt,
)
from tests.data.named.test_vtab import edit

GOLDEN = Path(__file__).parents[2] / "golden"
RELEASED = json.loads((GOLDEN / "recipe.json").read_text())["datasets"]["fgvc"]


def listed(split: Split, folder: Path, class_names: tuple[str, ...]) -> dict[str, str]:
    """Class name by path."""
    paths = [path.relative_to(folder).as_posix() for path in split.paths]
    return {path: class_names[label] for path, label in zip(paths, split.labels, strict=True)}


def check(data: ImageData) -> None:
    """What holds for every data set that is opened: existing images, disjoint parts."""
    parts = [set(split.paths) for split in (data.train, data.val, data.test)]
    assert all(path.is_file() for part in parts for path in part)
    assert sum(map(len, parts)) == len(set.union(*parts)) == len(data.train) + len(data.val) + len(data.test)


@pytest.mark.parametrize(
    ("name", "released"),
    [
        ("cub200", "CUB200"),
        ("nabirds", "NABIRDS"),
        ("stanford_dogs", "DOGS"),
        ("oxford_flowers", "FLOWERS"),
        ("stanford_cars", "CARS"),
    ],
)
def test_the_catalogue_has_the_sizes_of_the_released_split_files(name: str, released: str) -> None:
    facts = RELEASED[released]
    row = dataset_info(name)
    assert name in svp.list_datasets()
    assert row.classes == facts["classes"]
    assert (row.sizes["val"], row.sizes["test"]) == (facts["val"], facts["test"])
    in_val = facts["val"] if name == "stanford_cars" else 0  # "val is a subset of train"
    assert row.sizes["train"] == facts["train"] - in_val
    assert row.group == ("FGVC" if name == "stanford_cars" else "HTA")


# Split files of VPT


@pytest.mark.parametrize("above", ["FGVC", ""])
def test_cub_has_string_ids_and_class_names(tmp_path: Path, above: str) -> None:
    folder = write_cub200(tmp_path / above)
    paths = sorted(path.relative_to(folder / "images").as_posix() for path in (folder / "images").rglob("*.jpg"))
    ids = {path: path[:3] for path in paths}
    write_vpt(
        folder,
        train=dict(list(ids.items())[0::3]),
        val=dict(list(ids.items())[1::3]),
        test=dict(list(ids.items())[2::3]),
    )
    data = open_data("cub200", tmp_path)
    check(data)
    assert data.root == folder
    assert data.class_names == ("001.Black_footed_Albatross", "002.Laysan_Albatross", "010.Red_winged_Blackbird")
    for part, first in (("train", 0), ("val", 1), ("test", 2)):
        split = getattr(data, part)
        assert listed(split, folder / "images", data.class_names) == {path: path.split("/")[0] for path in paths[first::3]}
        assert split.origin == f"{part}.json"
    assert data.paper_train == data.train


def test_nabirds_has_numbers_with_gaps_and_a_validation_part_without_some_classes(tmp_path: Path) -> None:
    folder = write_nabirds(tmp_path)
    paths = sorted(path.relative_to(folder / "images").as_posix() for path in (folder / "images").rglob("*.jpg"))
    ids = {path: int(path[:4]) for path in paths}
    val = {path: class_id for path, class_id in ids.items() if path.endswith("3.jpg") and class_id != 900}
    test = {path: class_id for path, class_id in ids.items() if path.endswith("5.jpg")}
    train = {path: class_id for path, class_id in ids.items() if path not in {*val, *test}}
    write_vpt(folder, train=train, val=val, test=test)
    data = open_data("nabirds", tmp_path)
    check(data)
    assert data.class_names == ("Black-bellied Whistling-Duck", "Lark Bunting (Female/Nonbreeding male)", "Dickcissel")
    assert data.val.labels == (0, 2)  # numbered over all parts: within val.json alone, 1010 would be class 1
    assert data.test.labels == (0, 1, 2)
    assert "val has no image of Lark Bunting" in data.summary()


def test_classes_of_one_name_are_told_apart(tmp_path: Path) -> None:
    pairs = {"train": [("a/1.jpg", 3), ("b/1.jpg", 5)], "test": [("a/2.jpg", 3), ("c/2.jpg", 9)]}
    write_birds(tmp_path / "nabirds", pairs, {3: "Sora", 5: "Veery", 9: "Sora"}, hexadecimal=True)
    parts = read_fgvc(tmp_path, 0, name="nabirds")
    assert parts.class_names == ("Sora (3)", "Veery", "Sora (9)")
    assert parts.splits["test"].labels == (0, 2)  # a class of classes.txt may be without training images


def test_validation_images_of_cars_are_kept_out_of_training(tmp_path: Path) -> None:
    folder = tmp_path / "Stanford-cars"
    ids = {f"car_ims/{number:06d}.jpg": number % 3 + 1 for number in range(1, 19)}
    write_images(folder, list(ids.items()))
    train, test = dict(list(ids.items())[:12]), dict(list(ids.items())[12:])
    val = dict(list(train.items())[::4])
    write_vpt(folder, train=train, val=val, test=test)
    data = open_data("stanford_cars", tmp_path)
    check(data)
    assert (len(data.train), len(data.val), len(data.test)) == (9, 3, 6)
    assert data.class_names == ("1", "2", "3")
    assert data.train.origin == "train.json without 3 images of val.json"
    assert data.paper_train is not None
    assert listed(data.paper_train, folder, data.class_names) == {path: str(class_id) for path, class_id in train.items()}
    assert data.paper_train.origin == "train.json"
    write_cars(tmp_path, folder.name)  # the development kit brings names
    assert open_data("stanford_cars", tmp_path).class_names[0] == "AM General Hummer SUV 2000"


@pytest.mark.parametrize("folder", ["stanford-dogs", "Stanford-dogs"])
@pytest.mark.parametrize("images", ["images", "Images"])
def test_dogs_go_by_several_folder_names(tmp_path: Path, folder: str, images: str) -> None:
    write_dogs(tmp_path, folder, images)
    paths = sorted(path.relative_to(tmp_path / folder / images).as_posix() for path in tmp_path.rglob("*.jpg"))
    ids = {path: index // 8 + 1 for index, path in enumerate(paths)}
    write_vpt(tmp_path / folder, train=dict(list(ids.items())[::2]), test=dict(list(ids.items())[1::2]))
    data = open_data("stanford_dogs", tmp_path, seed=4)
    check(data)
    assert data.class_names == ("n02085620-Chihuahua", "n02085782-Japanese_spaniel", "n02087046-toy_terrier")
    assert data.val.origin == "15% of train.json, stratified, seed 4"
    assert data.paper_train is None  # train and val together are train.json


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.one_of(st.integers(0, 2000), st.integers(0, 2000).map(str), st.integers(0, 300).map("{:03d}".format)),
        min_size=2,
        max_size=12,
    ),
    st.booleans(),
)
def test_class_ids_of_any_spelling_are_one_numbering(
    tmp_path_factory: pytest.TempPathFactory, ids: list[int | str], letters: bool
) -> None:
    root = tmp_path_factory.mktemp("flowers")
    if letters:
        ids = [f"c{class_id}" for class_id in ids]
    order = sorted(set(ids), key=str) if letters else sorted({int(class_id) for class_id in ids})
    train = {f"jpg/{index}.jpg": class_id for index, class_id in enumerate(ids)}
    test = {f"jpg/t{index}.jpg": class_id for index, class_id in enumerate(ids[::2])}
    for path in {**train, **test}:
        (root / "OxfordFlower" / path).parent.mkdir(parents=True, exist_ok=True)
        (root / "OxfordFlower" / path).touch()
    write_vpt(root / "OxfordFlower", train=train, test=test)
    if len(order) == 1:
        with pytest.raises(DataError, match=r"train\.json: only one class"):
            read_fgvc(root, 0, name="oxford_flowers")
        return
    parts = read_fgvc(root, 0, name="oxford_flowers")
    assert parts.class_names == tuple(map(str, order))
    expected = [order.index(class_id if letters else int(class_id)) for class_id in ids]
    assert list(parts.splits["train"].labels) == expected
    assert list(parts.splits["test"].labels) == expected[::2]


def test_published_fractions_are_read_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "FGVC" / "OxfordFlower"
    train = {f"jpg/image_{number:05d}.jpg": number % 4 for number in range(8)}
    test = {f"jpg/image_{number:05d}.jpg": number % 4 for number in range(8, 12)}
    write_images(folder, list({**train, **test}.items()))
    few = {path: class_id for path, class_id in train.items() if class_id in (1, 3)}
    write_vpt(folder, train=train, val=dict(list(train.items())[-1:]), test=test, train_0_4=few)
    split = read_fraction(tmp_path, "oxford_flowers", 0.4)
    assert split is not None
    assert split.labels == (1, 3, 1, 3)
    assert split.origin == "train_0.4.json"
    assert read_fraction(tmp_path, "oxford_flowers", 0.1) is None
    assert read_fraction(tmp_path, "vtab_cifar", 0.4) is None
    write_vpt(folder, train_0_1={**few, "jpg/image_00008.jpg": 0})
    with pytest.raises(DataError, match=r"train_0\.1\.json, entry 'jpg/image_00008\.jpg'"):
        read_fraction(tmp_path, "oxford_flowers", 0.1)
    write_vpt(folder, train_0_1={"jpg/image_00001.jpg": 9})
    with pytest.raises(DataError, match=r"train_0\.1\.json, entry 'jpg/image_00001\.jpg': class 9 of"):
        read_fraction(tmp_path, "oxford_flowers", 0.1)
    write_vpt(folder, train_0_1={"jpg/lost.jpg": 1})
    with pytest.raises(DataError, match=r"train_0\.1\.json, entry 'jpg/lost\.jpg': there is no image"):
        read_fraction(tmp_path, "oxford_flowers", 0.1)


def test_a_published_fraction_beside_own_lists_without_a_test_part(tmp_path: Path) -> None:
    folder = write_dogs(tmp_path)
    for name in ("train_list.mat", "test_list.mat"):
        (folder / name).unlink()
    write_vpt(folder, train_0_1={"n02085782-Japanese_spaniel/n02085782_5.jpg": 2})
    split = read_fraction(tmp_path, "stanford_dogs", 0.1)
    assert split is not None
    assert split.labels == (1,)


# The data sets' own lists


def test_bird_lists(tmp_path: Path) -> None:
    folder = write_cub200(tmp_path)
    data = open_data("cub200", tmp_path, seed=2)
    check(data)
    assert (len(data.train), len(data.val), len(data.test)) == (9, 3, 6)
    assert data.val.origin == "15% of train_test_split.txt, stratified, seed 2"
    for split in (data.train, data.val, data.test):
        assert all(path.split("/")[0] == name for path, name in listed(split, folder / "images", data.class_names).items())
    assert open_data("cub200", tmp_path, seed=2).val == data.val
    assert {open_data("cub200", tmp_path, seed=seed).val.paths for seed in range(5)} != {data.val.paths}
    (folder / "classes.txt").unlink()  # names of folders, then
    assert open_data("cub200", tmp_path).class_names == data.class_names


def test_nabirds_lists(tmp_path: Path) -> None:
    folder = write_nabirds(tmp_path)
    data = open_data("nabirds", tmp_path / "nabirds")
    check(data)
    names = {"0295": "Black-bellied Whistling-Duck", "0900": "Lark Bunting (Female/Nonbreeding male)", "1010": "Dickcissel"}
    assert data.class_names == tuple(names.values())
    for split in (data.train, data.val, data.test):
        assert all(names[path[:4]] == name for path, name in listed(split, folder / "images", data.class_names).items())


@pytest.mark.parametrize("folder", ["OxfordFlower", "flowers-102"])
def test_flower_lists(tmp_path: Path, folder: str) -> None:
    root = write_flowers(tmp_path / folder)
    data = open_data("oxford_flowers", tmp_path)
    check(data)
    assert (len(data.train), len(data.val), len(data.test)) == (12, 12, 12)
    for split, variable in ((data.train, "trnid"), (data.val, "valid"), (data.test, "tstid")):
        numbers = loadmat(root / "setid.mat")[variable].ravel().tolist()
        assert listed(split, root, data.class_names) == {
            f"jpg/image_{number:05d}.jpg": str((number - 1) // 12 + 1) for number in numbers
        }
    assert data.paper_train == data.train  # the released code never trains on the validation part


def test_dog_lists(tmp_path: Path) -> None:
    folder = write_dogs(tmp_path)
    data = open_data("stanford_dogs", tmp_path)
    check(data)
    assert (len(data.train), len(data.val), len(data.test)) == (15, 3, 6)
    for split in (data.train, data.val, data.test):
        assert all(path.split("/")[0] == name for path, name in listed(split, folder / "Images", data.class_names).items())
    assert data.val.origin == "15% of train_list.mat, stratified, seed 0"


def test_dogs_with_the_list_of_all_images_alone(tmp_path: Path) -> None:
    folder = write_dogs(tmp_path)
    for name in ("train_list.mat", "test_list.mat"):
        (folder / name).unlink()
    data = open_data("stanford_dogs", tmp_path)
    check(data)
    assert (len(data.train), len(data.val), len(data.test)) == (18, 3, 3)
    assert data.test.origin == "15% of file_list.mat, stratified, seed 0"


@pytest.mark.parametrize("labels_in_devkit", [True, False])
def test_car_lists(tmp_path: Path, labels_in_devkit: bool) -> None:
    folder = write_cars(tmp_path, labels_in_devkit=labels_in_devkit)
    data = open_data("stanford_cars", tmp_path)
    check(data)
    names = ("AM General Hummer SUV 2000", "Acura RL Sedan 2012", "smart fortwo Convertible 2012")
    assert data.class_names == names
    assert listed(data.test, folder, names) == {f"cars_test/{n:05d}.jpg": names[n % 3] for n in range(1, 7)}
    train = listed(data.train, folder, names) | listed(data.val, folder, names)
    assert train == {f"cars_train/{n:05d}.jpg": names[n % 3] for n in range(1, 10)}


def test_one_image_lists_are_read(tmp_path: Path) -> None:
    """MATLAB files do not tell a single element from a list of one."""
    write_dogs(tmp_path)
    write_dogs_list(tmp_path / "stanford-dogs" / "test_list.mat", [("n02085620-Chihuahua/n02085620_3.jpg", 1)])
    assert open_data("stanford_dogs", tmp_path).test.labels == (0,)
    write_cars(tmp_path)
    write_cars_list(tmp_path / "stanford_cars" / "cars_test_annos_withlabels.mat", [("00001.jpg", 2)])
    assert open_data("stanford_cars", tmp_path).test.labels == (1,)


def test_split_files_come_before_own_lists(tmp_path: Path) -> None:
    folder = write_flowers(tmp_path / "OxfordFlower")
    write_vpt(folder, train={f"jpg/image_{number:05d}.jpg": number % 2 for number in range(1, 9)})
    with pytest.raises(DataError, match=r"OxfordFlower/test\.json: no such file"):
        open_data("oxford_flowers", tmp_path)
    write_vpt(folder, test={"jpg/image_00009.jpg": 1})
    assert len(open_data("oxford_flowers", tmp_path).test) == 1


# What can be wrong


SPLITS: Mapping[str, Mapping[str, int]] = {
    "train": {"jpg/1.jpg": 7, "jpg/2.jpg": 9, "jpg/3.jpg": 7, "jpg/4.jpg": 9},
    "val": {"jpg/5.jpg": 7},
    "test": {"jpg/6.jpg": 7, "jpg/7.jpg": 9},
}


@pytest.fixture
def flowers(tmp_path: Path) -> Path:
    folder = tmp_path / "FGVC" / "OxfordFlower"
    for path in (path for part in SPLITS.values() for path in part):
        write_image(folder / path)
    write_vpt(folder, **SPLITS)
    return folder


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, r"Oxford Flowers not found: no such folder\. Expected train\.json, .*\n  .*FGVC/OxfordFlower\n"),
        (lambda folder: [file.unlink() for file in folder.glob("*.json")], r"not found: .*OxfordFlower has none of its lists"),
        (lambda folder: (folder / "train.json").unlink(), r"train\.json: no such file"),
        (lambda folder: (folder / "test.json").unlink(), r"test\.json: no such file"),
        (
            lambda folder: (folder / "test.json").write_text('{"jpg/6.jpg": 7,\n "jpg/7'),
            r"test\.json, line 2: damaged JSON \(Unt",
        ),
        (lambda folder: (folder / "test.json").write_bytes(b'{"a":\n"\xff"}'), r"test\.json, line 2: is not text in UTF-8"),
        (lambda folder: (folder / "test.json").write_text('["jpg/6.jpg"]'), r"test\.json: is not one JSON object"),
        (lambda folder: write_vpt(folder, val={}), r"val\.json: the list is empty"),
        (
            lambda folder: write_vpt(folder, val={"jpg/5.jpg": 3}),
            r"val\.json, entry 'jpg/5\.jpg': class 3 of .* of train\.json",
        ),
        (lambda folder: write_vpt(folder, test={"jpg/6.jpg": "rose"}), r"test\.json, entry 'jpg/6\.jpg': class rose of"),
        (
            lambda folder: write_vpt(folder, test={"jpg/6.jpg": [7]}),
            r"test\.json, entry 'jpg/6\.jpg': class id \[7\] is neither",
        ),
        (
            lambda folder: write_vpt(folder, test={"jpg/6.jpg": True}),
            r"test\.json, entry 'jpg/6\.jpg': class id True is neither",
        ),
        (
            lambda folder: write_vpt(folder, test={"jpg/6.jpg": 7.0}),
            r"test\.json, entry 'jpg/6\.jpg': class id 7\.0 is neither",
        ),
        (lambda folder: (folder / "jpg/7.jpg").unlink(), r"test\.json, entry 'jpg/7\.jpg': there is no image .*; 1 of the 2"),
        (
            lambda folder: write_vpt(folder, test={"/jpg/6.jpg": 7}),
            r"test\.json, entry '/jpg/6\.jpg': .* is no path of an image",
        ),
        (
            lambda folder: write_vpt(folder, test={"jpg/6.jpg": 7, "jpg/./6.jpg": 7}),
            r"entry 'jpg/\./6\.jpg': jpg/6\.jpg is listed before already, by .*entry 'jpg/6\.jpg'",
        ),
        (
            lambda folder: write_vpt(folder, test={"jpg/6.jpg": 7, "jpg/2.jpg": 9}),
            r"test\.json, entry 'jpg/2\.jpg': jpg/2\.jpg is in .*train\.json, entry .*; 1 of 2 images are in both",
        ),
        (lambda folder: write_vpt(folder, test={"jpg/5.jpg": 7}), r"test\.json, entry 'jpg/5\.jpg': .* is in .*val\.json"),
        (lambda folder: write_vpt(folder, val=SPLITS["train"]), r"train\.json: all of its 4 images are in .*val\.json"),
    ],
)
def test_wrong_split_files_are_named_with_the_entry(flowers: Path, damage: Callable[[Path], object], message: str) -> None:
    assert len(open_data("oxford_flowers", flowers.parent.parent).train) == 4
    damage(flowers)
    assert has_fgvc(flowers.parent.parent, name="oxford_flowers") == bool(list(flowers.glob("*.json")))
    with pytest.raises(DataError, match=message):
        open_data("oxford_flowers", flowers.parent.parent)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "images.txt").unlink(), r"CUB_200_2011: images\.txt missing\. Expected the data set's own"),
        (lambda folder: shutil.rmtree(folder / "images"), r"CUB_200_2011: no folder images/"),
        (lambda folder: edit(folder / "images.txt", 3, "3"), r"images\.txt, line 3: '3' is not two fields"),
        (lambda folder: edit(folder / "images.txt", 3, "2 b/x.jpg"), r"images\.txt, line 3: 2 has a line before already, 2"),
        (
            lambda folder: edit(folder / "images.txt", 3, "3 b/x.jpg"),
            r"images\.txt, line 3: there is no image .*images/b/x\.jpg",
        ),
        (
            lambda folder: edit(folder / "images.txt", 3, "99 b/x.jpg"),
            r"image_class_labels\.txt: no line for image 99, .* line 3",
        ),
        (
            lambda folder: edit(folder / "train_test_split.txt", 3, "99 1"),
            r"train_test_split\.txt: no line for image 3, which is in",
        ),
        (lambda folder: edit(folder / "train_test_split.txt", 3, "3 2"), r"train_test_split\.txt, line 3: '2' is neither 1"),
        (
            lambda folder: edit(folder / "image_class_labels.txt", 3, "3 x"),
            r"image_class_labels\.txt, line 3: 'x' is no number",
        ),
        (
            lambda folder: edit(folder / "image_class_labels.txt", 3, "3 77"),
            r"image_class_labels\.txt, line 3: class 77 of .* is not among the 3 of .*classes\.txt",
        ),
        (lambda folder: edit(folder / "classes.txt", 2, "two 002"), r"classes\.txt, line 2: 'two' is no number of a class"),
        (
            lambda folder: write_lines(folder / "train_test_split.txt", [f"{number} 1" for number in range(1, 19)]),
            r"train_test_split\.txt: the test part is empty",
        ),
    ],
)
def test_wrong_bird_lists_are_named_with_the_line(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(write_cub200(tmp_path))
    with pytest.raises(DataError, match=message):
        open_data("cub200", tmp_path)


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-40])


def _change(file: Path, **variables: object) -> None:
    savemat(file, {name: value for name, value in loadmat(file).items() if not name.startswith("__")} | variables)


def _drop(file: Path, variable: str) -> None:
    savemat(file, {name: value for name, value in loadmat(file).items() if not name.startswith("__") and name != variable})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "setid.mat").unlink(), r"OxfordFlower: setid\.mat missing"),
        (lambda folder: _truncate(folder / "setid.mat"), r"setid\.mat: cannot be read as a MATLAB file"),
        (
            lambda folder: (folder / "setid.mat").write_bytes(zlib.compress(bytes(9))),
            r"setid\.mat: cannot be read as a MATLAB",
        ),
        (lambda folder: (folder / "setid.mat").write_bytes(b""), r"setid\.mat: cannot be read as a MATLAB"),
        (lambda folder: _drop(folder / "setid.mat", "valid"), r"setid\.mat: no variable valid; it has trnid, tstid"),
        (lambda folder: _change(folder / "setid.mat", valid=[[1, 37]]), r"setid\.mat, valid\(2\): image 37, but .* 1 to 36"),
        (lambda folder: _change(folder / "setid.mat", valid=[[0, 7]]), r"setid\.mat, valid\(1\): image 0, but"),
        (lambda folder: _change(folder / "setid.mat", valid=[[1.5]]), r"setid\.mat, valid\(1\): .* is no whole number"),
        (lambda folder: _change(folder / "setid.mat", valid=np.zeros((1, 0))), r"setid\.mat: the list valid is empty"),
        (lambda folder: _change(folder / "imagelabels.mat", labels="x" * 36), r"imagelabels\.mat"),
        (lambda folder: _change(folder / "setid.mat", tstid=[[1] * 2]), r"setid\.mat, tstid\(2\): .* listed before already"),
        (
            lambda folder: _change(folder / "setid.mat", tstid=loadmat(folder / "setid.mat")["valid"]),
            r"setid\.mat, tstid\(1\): .* is in .*setid\.mat, valid\(1\), too; 12 of 12",
        ),
        (
            lambda folder: _change(folder / "imagelabels.mat", labels=np.where(np.arange(36) == 10, 4, 1)[None]),
            r"imagelabels\.mat, labels\(11\): class 4 of jpg/image_00011\.jpg is not among the 1 of setid\.mat",
        ),
    ],
)
def test_wrong_flower_lists_are_named_with_the_element(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(write_flowers(tmp_path / "OxfordFlower"))
    with pytest.raises(DataError, match=message):
        open_data("oxford_flowers", tmp_path)


def test_wrong_dog_and_car_lists(tmp_path: Path) -> None:
    dogs = write_dogs(tmp_path)
    _change(dogs / "train_list.mat", labels=[[1], [2]])
    with pytest.raises(DataError, match=r"train_list\.mat: 18 paths in file_list but 2 labels"):
        open_data("stanford_dogs", tmp_path)
    (dogs / "train_list.mat").unlink()
    with pytest.raises(DataError, match=r"stanford-dogs: train_list\.mat missing"):
        open_data("stanford_dogs", tmp_path)
    cars = write_cars(tmp_path)
    savemat(
        cars / "cars_test_annos_withlabels.mat", {"annotations": np.array([[(1, "a")]], dtype=[("x", "O"), ("fname", "O")])}
    )
    with pytest.raises(DataError, match=r"withlabels\.mat: annotations have no field class"):
        open_data("stanford_cars", tmp_path)
    (cars / "cars_test_annos_withlabels.mat").unlink()
    with pytest.raises(DataError, match=r"stanford_cars: devkit/cars_test_annos_withlabels\.mat missing"):
        open_data("stanford_cars", tmp_path)
