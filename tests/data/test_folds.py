"""Folds: every image is held out once, classes are spread, groups stay together."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from svp.data import DataError, ImageData, Split
from svp.data.folds import lacking_classes, make_folds


def make_data(labels: list[int], groups: list[str] | None = None) -> ImageData:
    paths = tuple(Path(f"/photos/{i}.jpg") for i in range(len(labels)))
    train = Split(paths, tuple(labels), "train/", tuple(groups or ()))
    test = Split((Path("/photos/test.jpg"),), (0,), "test/")
    grouped_by = "column patient" if groups else None
    return ImageData("photos", Path("/photos"), ("a", "b"), train, Split((), (), "none"), test, grouped_by=grouped_by)


def test_every_image_is_held_out_once_and_the_test_images_never() -> None:
    data = make_data([0] * 20 + [1] * 10)
    folds = make_folds(data, 5, seed=3)
    held_out = [path for fold in folds for path in fold.test.paths]
    assert sorted(held_out) == sorted(data.train.paths)
    for fold in folds:
        assert Counter(fold.test.labels) == {0: 4, 1: 2}
        assert set(fold.train.paths) == set(data.train.paths) - set(fold.test.paths)
        assert not len(fold.val)
    assert "fold 2 of 5" in folds[1].test.origin


def test_the_seed_draws_them() -> None:
    data = make_data([0, 1] * 10)
    first, again, other = (make_folds(data, 4, seed)[0].test.paths for seed in (0, 0, 1))
    assert first == again != other


def test_images_of_a_group_are_in_one_fold() -> None:
    data = make_data([0, 0, 1, 1] * 6, [f"patient {i // 4}" for i in range(24)])
    folds = make_folds(data, 3)
    for fold in folds:
        assert not set(fold.test.groups) & set(fold.train.groups)
        assert set(fold.test.labels) == {0, 1}
    assert "by column patient" in folds[0].test.origin


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (make_data([0, 1]), "2 training images are too few for 4 folds"),
        (make_data([0, 1] * 9, ["p", "q", "r"] * 6), "3 groups are too few for 4 folds"),
        (make_data([0, 0, 1, 1]), "4 folds are more than any class has images"),
    ],
)
def test_too_few_images_are_refused(data: ImageData, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make_folds(data, 4)


def test_a_class_that_is_all_in_one_fold_is_named() -> None:
    said = [lacking_classes(fold) for fold in make_folds(make_data([0] * 9 + [1]), 3)]
    assert said.count(None) == 2
    assert "has all images of b, which count as wrong" in said
