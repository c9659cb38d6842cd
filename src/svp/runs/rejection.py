"""A threshold for "none of these": guesses that are less sure are not given.

Source: Geifman and El-Yaniv, "Selective Classification for Deep Neural Networks", NIPS 2017, arXiv:1705.08500; the curve and
the word coverage are those of El-Yaniv and Wiener, JMLR 11 (2010).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

DOUBT = 0.05
"""Probability that a promise does not hold."""
LEVELS = 10
"""Thresholds that are tried."""
_STEPS = 1e4  # thresholds are whole multiples of 1/this: no rounding of a later pass moves an image across


@dataclass(frozen=True)
class Acceptance:
    """What a threshold does to labelled images. Shares are 0 to 1.

    Args:
        threshold: Guesses with less confidence are rejected.
        coverage: Share of the images that are accepted; an unreadable one is not.
        accuracy: Share of those that are right; None if none is accepted.
        area: Area under the risk-coverage curve (AURC), see `RiskCoverage`.
    """

    threshold: float
    coverage: float
    accuracy: float | None
    area: float


@dataclass(frozen=True)
class Threshold:
    """A threshold that was chosen on validation images. Shares are 0 to 1.

    Args:
        confidence: Guesses with less are rejected.
        promised: Accuracy of accepted guesses that holds for other images of the same kind, with 95 % certainty.
        coverage: Share of the validation images that are accepted.
        accuracy: Share of those that are right.
    """

    confidence: float
    promised: float
    coverage: float
    accuracy: float


def lower_bound(right: int, n: int, doubt: float) -> float:
    """Accuracy that holds with probability 1 - doubt, if `right` of `n` images are (Clopper and Pearson, 1934)."""
    from scipy.stats import beta

    return float(beta.ppf(doubt, right, n - right + 1)) if right else 0.0


def most_promised(n: int) -> float:
    """The highest accuracy that so many validation images can promise: all of them are right."""
    return lower_bound(n, n, DOUBT / LEVELS) if n else 0.0


def choose_threshold(confidence: Array, right: Flags, target: float) -> Threshold:
    """The threshold that promises the target and accepts most; the one that promises most if none does.

    Tried are ten thresholds: those that accept the surest tenth of the images, two tenths and so on. Each has a lower bound
    of its accuracy (Clopper and Pearson) at a doubt of 0.05 / 10, so that all ten hold together with probability 0.95: the
    bound of Geifman and El-Yaniv, section 3, over fixed shares instead of the steps of a binary search, which a few hundred
    images would lead astray.

    Args:
        confidence: Probability of each first guess, (n,), n above 0.
        right: Whether it is right, (n,).
        target: Accuracy asked for, 0 to 1.
    """
    n = len(confidence)
    rounded = np.floor(confidence * _STEPS) / _STEPS
    tried = []
    for least in np.quantile(rounded, np.arange(LEVELS) / LEVELS, method="inverted_cdf"):  # of all to of a tenth
        accepted = rounded >= least
        good, count = int(right[accepted].sum()), int(accepted.sum())
        tried.append(Threshold(float(least), lower_bound(good, count, DOUBT / LEVELS), count / n, good / count))
    kept = [threshold for threshold in tried if threshold.promised >= target]
    return kept[0] if kept else max(tried, key=lambda threshold: threshold.promised)


@dataclass(frozen=True)
class RiskCoverage:
    """Error among the surest images against their share of all, (n,) each, the surest first.

    Args:
        coverage: Share of the images that are accepted, 0 to 1.
        risk: Share of those that are wrong, 0 to 1.
    """

    coverage: Array
    risk: Array

    @property
    def area(self) -> float:
        """AURC: the mean of the risk over all coverages, 0 to 1; the less, the better confidence tells right from wrong."""
        return float(self.risk.mean())


def risk_coverage(confidence: Array, right: Flags) -> RiskCoverage:
    """The risk-coverage curve.

    Args:
        confidence: Probability of each first guess, (n,).
        right: Whether it is right, (n,).
    """
    order = np.argsort(-confidence, kind="stable")
    accepted = np.arange(1, len(order) + 1)
    return RiskCoverage(accepted / len(order), np.cumsum(~right[order]) / accepted)


def acceptance(confidence: Array, right: Flags, threshold: float, unreadable: int = 0) -> Acceptance:
    """What a threshold does to images whose first guesses have this confidence, (n,), and are right or not, (n,)."""
    accepted = confidence >= threshold
    count = int(accepted.sum())
    return Acceptance(
        threshold=threshold,
        coverage=count / (len(confidence) + unreadable),
        accuracy=int(right[accepted].sum()) / count if count else None,
        area=risk_coverage(confidence, right).area,
    )
