"""Which labels are wrong? Confident learning on features (Northcutt et al., JAIR 2021, arXiv:1911.00068).

A model that was trained on a wrong label has learned it. So the labels are judged by a logistic regression on features, which
has not seen the image that it judges: out-of-fold, each fold by a regression on the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

FOLDS = 5
_REGULARIZATION = 0.1
"""Inverse strength of the penalty, stronger than scikit-learn's: a regression that fits wrong labels repeats them."""


@dataclass(frozen=True)
class LabelErrors:
    """Labels that are likely wrong, the likeliest first.

    Args:
        images: Indices of the images, (n,).
        suggested: The class that each is of instead, (n,).
        margin: Probability of its label minus that of the likeliest other class, (n,), -1 to 1; below zero where the label
            is not the likeliest class.
    """

    images: Integers
    suggested: Integers
    margin: Array


def out_of_fold_probabilities(features: Array, labels: Integers, classes: int, groups: npt.ArrayLike | None = None) -> Array:
    """Probability of each class for every image, by regressions that have not seen it, (images, classes).

    Args:
        features: (images, embed_dim)
        labels: Labels as they are given, (images,).
        classes: Number of classes.
        groups: What must be in one fold, such as copies of one image, (images,).

    Returns:
        NaN for images whose class has no other group: nothing is left to learn it from.

    Raises:
        ValueError: A class has fewer than two images.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    present, counts = np.unique(labels, return_counts=True)
    if len(present) < 2 or counts.min() < 2:
        raise ValueError("expected two or more classes of two or more images each")
    probabilities = np.full((len(labels), classes), np.nan)
    units = len(labels) if groups is None else len(np.unique(groups))
    if units < 2:
        return probabilities
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    folds = kind(n_splits=min(FOLDS, int(counts.min()), units), shuffle=True, random_state=0)
    for train, judged in folds.split(features, labels, groups):
        judged = judged[np.isin(labels[judged], labels[train])]
        if not len(judged) or len(np.unique(labels[train])) < 2:
            continue
        probabilities[judged] = 0.0
        regression = make_pipeline(StandardScaler(), LogisticRegression(C=_REGULARIZATION, max_iter=1000))
        regression.fit(features[train], labels[train])
        probabilities[np.ix_(judged, regression.classes_)] = regression.predict_proba(features[judged])
    return probabilities


def find_label_errors(probabilities: Array, labels: Integers) -> LabelErrors:
    """Images off the diagonal of the confident joint.

        t[j] = mean of p[i, j] over images i with the label j
        An image counts as of the likeliest class j with p[i, j] >= t[j]; its label is doubted where that is another class.

    Args:
        probabilities: Out-of-fold, (images, classes); NaN for images that are not judged.
        labels: Labels as they are given, (images,).
    """
    judged = np.flatnonzero(~np.isnan(probabilities[:, 0]))
    found = _find_among_judged(probabilities[judged], labels[judged])
    return LabelErrors(judged[found.images], found.suggested, found.margin)


def _find_among_judged(probabilities: Array, labels: Integers) -> LabelErrors:
    images, classes = probabilities.shape
    counts = np.bincount(labels, minlength=classes)
    own = probabilities[np.arange(images), labels]
    thresholds = np.where(counts > 0, np.bincount(labels, own, classes) / np.maximum(counts, 1), np.inf)
    confident = np.where(probabilities >= thresholds, probabilities, -1.0)
    said: Integers = confident.argmax(axis=1)
    doubted = np.flatnonzero((confident.max(axis=1) >= 0) & (said != labels))
    others = probabilities.copy()
    others[np.arange(images), labels] = -1.0
    margin = own - others.max(axis=1)
    doubted = doubted[np.argsort(margin[doubted], kind="stable")]
    return LabelErrors(doubted, said[doubted], margin[doubted])
