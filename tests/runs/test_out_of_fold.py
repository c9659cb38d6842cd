"""What folds say of all images: its file, its scores, how sure they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score

from svp.data import ImageData, Split
from svp.runs import RunError
from svp.runs.certainty import wilson
from svp.runs.out_of_fold import interval_over_folds, interval_over_images, join_folds, read_out_of_fold, write_fold

NAMES = ("cat", "dog, big", "p:odd")


def write_two(folder: Path, groups: bool = False) -> tuple[list[Path], np.ndarray]:  # type: ignore[type-arg]
    """Two folds of six images; the first image of the second fold could not be read."""
    probabilities = np.random.default_rng(0).dirichlet([1, 1, 1], size=12).astype(np.float32)
    paths = [Path(f"/photos/ä {i}.jpg") for i in range(12)]
    for fold in (0, 1):
        held_out = slice(6 * fold, 6 * fold + 6)
        names = tuple("pq"[i % 2] for i in range(6)) if groups else ()
        split = Split(tuple(paths[held_out]), (0, 1, 2) * 2, f"fold {fold}", names)
        data = ImageData("photos", Path("/photos"), NAMES, Split((), (), ""), Split((), (), ""), split)
        some = slice(6 * fold + fold, 6 * fold + 6)
        write_fold(folder / f"{fold}.csv", data, fold + 1, paths[some], probabilities[some])
    join_folds([folder / "0.csv", folder / "1.csv"], folder / "out_of_fold.csv")
    return paths, probabilities


def test_what_is_written_is_read(tmp_path: Path) -> None:
    paths, probabilities = write_two(tmp_path)
    found = read_out_of_fold(tmp_path)
    assert found.class_names == NAMES
    assert found.paths == tuple(path.name for path in paths)
    assert found.labels.tolist() == [0, 1, 2] * 4
    assert found.folds.tolist() == [1] * 6 + [2] * 6
    assert found.read.tolist() == [True] * 6 + [False] + [True] * 5
    np.testing.assert_array_equal(found.probabilities[found.read], probabilities[found.read])  # to the bit


def test_an_image_that_cannot_be_read_counts_as_wrong(tmp_path: Path) -> None:
    _, probabilities = write_two(tmp_path)
    found = read_out_of_fold(tmp_path)
    guesses = probabilities.argmax(axis=1)
    guesses[6] = -1
    summary = found.summary()
    assert summary.n == 12
    assert summary.top1 == found.scores().top1 == pytest.approx(accuracy_score(found.labels, guesses))
    assert summary.fold_top1 == pytest.approx([np.mean(guesses[:6] == [0, 1, 2] * 2), np.mean(guesses[6:] == [0, 1, 2] * 2)])
    assert summary.metrics["top1"] == summary.top1
    assert summary.interval[0] < summary.top1 < summary.interval[1]


def test_over_images_the_interval_is_that_of_a_share_and_wider_where_groups_fall_together() -> None:
    right = np.repeat([True, False, True, True], 25)
    low, high = wilson(0.75, 100)
    assert interval_over_images(right, [""] * 100) == (low, high)
    alone = interval_over_images(right, [str(i) for i in range(100)])
    assert alone == pytest.approx((float(low), float(high)), abs=0.02)  # every image a group of its own
    together = interval_over_images(right, [str(i // 5) for i in range(100)])
    assert together[1] - together[0] > 1.7 * (alone[1] - alone[0])  # sqrt(5), but for the few groups


def test_over_folds_the_interval_is_that_of_nadeau_and_bengio() -> None:
    """Five folds with mean 0.8 and deviation 0.0158...: t is 2.776, and sqrt(1/5 + 1/4) is 0.671."""
    low, high = interval_over_folds([0.78, 0.79, 0.8, 0.81, 0.82])
    half = 2.7764451 * np.sqrt(0.00025) * np.sqrt(0.45)
    assert (low, high) == pytest.approx((0.8 - half, 0.8 + half))
    assert interval_over_folds([0.5, 1.0]) == (0.0, 1.0)


def test_a_missing_or_damaged_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"out_of_fold.csv does not exist: it is what `svp train --folds` writes"):
        read_out_of_fold(tmp_path)
    write_two(tmp_path, groups=True)
    file = tmp_path / "out_of_fold.csv"
    assert set(read_out_of_fold(file).groups) == {"p", "q"}
    file.write_text(file.read_text(encoding="utf-8").replace(",cat,", ",cow,"), encoding="utf-8")
    with pytest.raises(RunError, match="damaged"):
        read_out_of_fold(file)
