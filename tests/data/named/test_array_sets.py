"""CIFAR and SVHN from files as they are published; torchvision's own classes say what is in them."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100, SVHN

from svp.data import DataError, dataset_info, open_data
from svp.data.splits import Split
from tests.data.named.official import (
    CIFAR10_CLASSES,
    CIFAR100_CLASSES,
    write_cifar10,
    write_cifar100,
    write_python2_pickle,
    write_svhn,
)


class Cifar10(CIFAR10):
    """Without the checksums of the published files."""

    train_list = [[name, None] for name, _ in CIFAR10.train_list]  # noqa: RUF012
    test_list = [["test_batch", None]]  # noqa: RUF012
    meta = CIFAR10.meta | {"md5": None}


class Cifar100(CIFAR100):
    train_list = [["train", None]]  # noqa: RUF012
    test_list = [["test", None]]  # noqa: RUF012
    meta = CIFAR100.meta | {"md5": None}


class Svhn(SVHN):
    split_list = {part: [url, name, None] for part, (url, name, _) in SVHN.split_list.items()}  # noqa: RUF012


def in_file_order(split: Split) -> list[tuple[Path, int]]:
    return sorted(zip(split.paths, split.labels, strict=True), key=lambda pair: pair[0].name)


def assert_same(split: Split, expected: Any) -> None:
    pairs = in_file_order(split)
    assert len(pairs) == len(expected)
    for (path, label), (image, expected_label) in zip(pairs, expected, strict=True):
        assert label == expected_label
        assert np.array_equal(np.asarray(Image.open(path)), np.asarray(image)), path


@pytest.mark.parametrize("place", ["", "cifar10"])
def test_cifar10(tmp_path: Path, place: str) -> None:
    write_cifar10(tmp_path / place)
    parts = dataset_info("cifar10").read(tmp_path, 0)
    assert parts.class_names == tuple(CIFAR10_CLASSES)
    assert_same(parts.splits["train"], Cifar10(tmp_path / place))
    assert_same(parts.splits["test"], Cifar10(tmp_path / place, train=False))
    assert [split.origin for split in parts.splits.values()] == ["official test", "official train"]
    assert parts.paper_train is None
    assert parts.splits["train"].paths[0].parent == tmp_path / "cifar10" / "images" / "train" / "airplane"


@pytest.mark.parametrize("place", ["", "cifar100"])
def test_cifar100(tmp_path: Path, place: str) -> None:
    write_cifar100(tmp_path / place)
    data = open_data("cifar100", tmp_path, val_fraction=0.3)
    assert data.class_names == tuple(CIFAR100_CLASSES)
    assert_same(data.test, Cifar100(tmp_path / place, train=False))
    train = Split(data.train.paths + data.val.paths, data.train.labels + data.val.labels, "")
    assert_same(train, Cifar100(tmp_path / place))
    assert data.val.origin == "30% of official train, stratified, seed 0"


@pytest.mark.parametrize("place", ["", "svhn"])
def test_svhn(tmp_path: Path, place: str) -> None:
    write_svhn(tmp_path / place)
    parts = dataset_info("svhn").read(tmp_path, 0)
    assert parts.class_names == tuple("0123456789")
    assert_same(parts.splits["train"], Svhn(tmp_path / place))
    assert_same(parts.splits["test"], Svhn(tmp_path / place, split="test"))


def test_svhn_as_the_paper_trains_on_it(tmp_path: Path) -> None:
    write_svhn(tmp_path)
    parts = dataset_info("svhn").read(tmp_path, 3)
    assert parts.paper_train is not None
    expected = [int(label) for label in Svhn(tmp_path).labels[:40]]
    assert list(parts.paper_train.labels) == expected
    assert [int(path.stem) for path in parts.paper_train.paths] == list(range(40))
    assert parts.paper_train.origin == "first 80% of train in file order, as the released code"


def test_images_are_written_once_and_then_the_official_files_are_not_needed(tmp_path: Path) -> None:
    official = write_cifar10(tmp_path)
    first = dataset_info("cifar10").read(tmp_path, 0)
    for file in official.iterdir():
        file.unlink()
    image = first.splits["train"].paths[0]
    written = image.stat().st_mtime_ns
    assert dataset_info("cifar10").read(tmp_path, 0) == first
    assert image.stat().st_mtime_ns == written
    assert dataset_info("cifar10").is_present(tmp_path)


def test_half_written_images_are_written_again(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    whole = dataset_info("cifar10").read(tmp_path, 0)
    (tmp_path / "cifar10" / "images" / ".complete").unlink()
    for path in whole.splits["train"].paths[::3]:
        path.unlink()
    whole.splits["test"].paths[0].write_bytes(b"half an ima")
    assert dataset_info("cifar10").read(tmp_path, 0) == whole
    assert_same(whole.splits["test"], Cifar10(tmp_path, train=False))


def test_nothing_is_written_from_damaged_files(tmp_path: Path) -> None:
    official = write_cifar10(tmp_path)
    (official / "test_batch").rename(official / "elsewhere")
    with pytest.raises(DataError, match=r"cifar10 is incomplete: .*cifar-10-batches-py/test_batch missing"):
        dataset_info("cifar10").read(tmp_path, 0)
    (official / "test_batch").write_bytes(b"")
    with pytest.raises(DataError, match=r"test_batch: not a file of CIFAR, or a damaged one"):
        dataset_info("cifar10").read(tmp_path, 0)
    assert list((tmp_path / "cifar10").rglob("*.png")) == []
    (official / "elsewhere").replace(official / "test_batch")
    assert len(dataset_info("cifar10").read(tmp_path, 0).splits["test"]) == 10


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn"])
def test_nothing_there(tmp_path: Path, name: str) -> None:
    root = tmp_path / "my data"
    with pytest.raises(DataError, match=rf"{name} is not in {root}: .*svp data fetch {name} --data-root '{root}'"):
        dataset_info(name).read(root, 0)
    assert not dataset_info(name).is_present(root)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": [*range(9), 10]}, r"data_batch_1: image 9 has label 10; labels are 0 to 9"),
        ({"labels": [*range(9), -1]}, r"data_batch_1: image 9 has label -1"),
        ({"labels": [*range(9), "9"]}, r"data_batch_1: image 9 has label '9'"),
        ({"labels": [*range(9)]}, r"data_batch_1: 10 images and 9 labels"),
        ({"labels": "airplanes"}, r"data_batch_1: expected a list under labels"),
        ({"labels": [1] * 10}, r"no training image of cifar10 is of class airplane, bird"),
        ({"labels": [], "data": np.zeros((0, 3072), np.uint8)}, r"data_batch_1: 0 images and 0 labels"),
        ({"data": np.zeros((10, 3071), np.uint8)}, r"data_batch_1: expected data of shape \(images, 3072\), uint8"),
        ({"data": np.zeros((10, 3072))}, r"data_batch_1: expected data of shape"),
        ({"data": None}, r"data_batch_1: expected data of shape"),
    ],
)
def test_wrong_content_of_cifar(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_cifar10(tmp_path, **changes)
    with pytest.raises(DataError, match=message):
        dataset_info("cifar10").read(tmp_path, 0)


@pytest.mark.parametrize(
    "names", [None, ["cat"], ["cat", "cat"], ["cat", "../../dog"], ["cat", ""], ["cat", ".."], ["cat", 3], ["cat", "a/b"]]
)
def test_wrong_class_names_of_cifar(tmp_path: Path, names: Any) -> None:
    write_python2_pickle(write_cifar10(tmp_path) / "batches.meta", {"label_names": names})
    with pytest.raises(DataError, match=r"batches\.meta: "):
        dataset_info("cifar10").read(tmp_path, 0)
    assert list(tmp_path.rglob("*.png")) == []


class Malicious:
    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.proof}",)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_nothing_in_a_pickle_is_executed(tmp_path: Path, protocol: int) -> None:
    official = write_cifar10(tmp_path)
    proof = tmp_path / "executed"
    content = pickle.dumps({"data": Malicious(proof), "labels": []}, protocol)
    (official / "data_batch_1").write_bytes(content)
    with pytest.raises(DataError, match=r"data_batch_1: not a file of CIFAR, .*it names (posix|nt)\.system"):
        dataset_info("cifar10").read(tmp_path, 0)
    assert not proof.exists()
    pickle.loads(content)
    assert proof.exists()  # it would have been


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_pickle_cut_short_is_named(tmp_path_factory: pytest.TempPathFactory, share: float) -> None:
    root = tmp_path_factory.mktemp("cut")
    file = write_cifar10(root) / "data_batch_3"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DataError, match=r"data_batch_3: "):
        dataset_info("cifar10").read(root, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": np.full((50, 1), 11, np.uint8)}, r"train_32x32\.mat: image 0 has label 11; labels are 1 to 10"),
        ({"y": np.full((50, 1), 0, np.uint8)}, r"train_32x32\.mat: image 0 has label 0"),
        ({"y": np.full((49, 1), 1, np.uint8)}, r"train_32x32\.mat: 50 images and 49 labels"),
        (
            {"y": np.ones((50, 1), np.uint8), "X": np.zeros((32, 32, 3, 50), np.uint8)},
            r"no training image of svhn is of class 0, 2",
        ),
        ({"X": np.zeros((50, 32, 32, 3), np.uint8)}, r"train_32x32\.mat: expected X of shape \(32, 32, 3, images\), uint8"),
        ({"X": "text"}, r"train_32x32\.mat: expected X"),
    ],
)
def test_wrong_content_of_svhn(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_svhn(tmp_path, **changes)
    with pytest.raises(DataError, match=message):
        dataset_info("svhn").read(tmp_path, 0)


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"MATLAB 7.3 MAT-file" + bytes(600), None])
def test_damaged_file_of_svhn(tmp_path: Path, content: bytes | None) -> None:
    file = write_svhn(tmp_path) / "test_32x32.mat"
    file.write_bytes(file.read_bytes()[:5000] if content is None else content)
    with pytest.raises(DataError, match=r"test_32x32\.mat: .*[Rr]emove it and fetch it again"):
        dataset_info("svhn").read(tmp_path, 0)
