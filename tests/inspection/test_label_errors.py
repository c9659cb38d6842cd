"""Confident learning and neighbors, on features whose wrong labels, copies and odd ones are known."""

from __future__ import annotations

import numpy as np
import pytest

from svp.inspection.label_errors import find_label_errors, out_of_fold_probabilities
from svp.inspection.neighbors import find_neighbors, near_duplicates, outliers


def clusters(per_class: int = 60, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), per_class)
    centers = 3 * generator.normal(size=(classes, 16))
    return centers[labels] + generator.normal(size=(len(labels), 16)), labels


def test_doubts_are_off_the_diagonal_of_the_confident_joint() -> None:
    """Thresholds by hand: t[0] = (0.9 + 0.6 + 0.2) / 3 = 0.567, t[1] = (0.8 + 0.7 + 0.45) / 3 = 0.65."""
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.2, 0.8], [0.3, 0.7], [0.55, 0.45]])
    found = find_label_errors(probabilities, np.array([0, 0, 0, 1, 1, 1]))
    assert found.images.tolist() == [2]  # the last one seems to be of 0, but not surely enough
    assert found.suggested.tolist() == [1]
    assert found.margin.tolist() == pytest.approx([0.2 - 0.8])
    surer = find_label_errors(np.vstack([probabilities, [0.95, 0.05]]), np.array([0, 0, 0, 1, 1, 1, 1]))
    assert surer.images.tolist() == [6, 2]  # the surer first


def test_wrong_labels_are_found() -> None:
    features, truth = clusters()
    labels = truth.copy()
    flipped = np.random.default_rng(1).choice(len(labels), 12, replace=False)
    labels[flipped] = (labels[flipped] + 1) % 4
    found = find_label_errors(out_of_fold_probabilities(features, labels, 4), labels)
    right = np.isin(found.images, flipped)
    assert right.all()
    assert right.sum() >= 8
    np.testing.assert_array_equal(found.suggested[right], truth[found.images[right]])
    assert (np.diff(found.margin) >= 0).all()


def test_an_image_is_judged_by_others_alone() -> None:
    """Many features and random labels: a regression fits those that it saw, and knows nothing of the others."""
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1], 40)
    features = generator.normal(size=(80, 300))
    own = out_of_fold_probabilities(features, labels, 3)[np.arange(80), labels]
    assert own.mean() == pytest.approx(0.5, abs=0.12)
    # copies under one label give each other away, unless a group keeps them in one fold
    doubled, twice = np.tile(features, (2, 1)), np.tile(labels, 2)
    seen = out_of_fold_probabilities(doubled, twice, 2)[np.arange(160), twice].mean()
    apart = out_of_fold_probabilities(doubled, twice, 2, np.tile(np.arange(80), 2))[np.arange(160), twice].mean()
    assert seen > apart + 0.05


@pytest.mark.parametrize(
    ("per_group", "doubted"), [(60, False), (50, True)], ids=["a class is a group", "classes share groups"]
)
def test_a_class_that_only_one_group_has_is_not_judged(per_group: int, doubted: bool) -> None:
    features, labels = clusters()
    labels[0] = 3
    groups = np.arange(len(labels)) // per_group
    found = find_label_errors(out_of_fold_probabilities(features, labels, 4, groups), labels)
    assert found.images.tolist() == ([0] if doubted else [])


def test_one_group_judges_nothing() -> None:
    features, labels = clusters(10)
    assert np.isnan(out_of_fold_probabilities(features, labels, 4, np.zeros(40))).all()


def test_too_few_images_are_an_error() -> None:
    with pytest.raises(ValueError, match="two or more classes of two or more images each"):
        out_of_fold_probabilities(np.zeros((3, 2)), np.array([0, 0, 1]), 2)


def test_copies_and_odd_ones_are_found_and_nothing_else() -> None:
    features, _ = clusters()
    neighbors = find_neighbors(features)
    assert near_duplicates(neighbors) == []
    assert outliers(neighbors) == []
    features[7] = features[100] + 0.02
    features[33] = 60 * np.random.default_rng(2).normal(size=16) * np.array([1] * 8 + [-1] * 8)
    neighbors = find_neighbors(features)
    ((one, other, cosine),) = near_duplicates(neighbors)
    assert (one, other) == (7, 100)
    assert cosine > 0.999
    assert [image for image, _ in outliers(neighbors)] == [33]
