"""How sure a model is, and how sure one can be of its score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

BINS = 15


@dataclass(frozen=True)
class Reliability:
    """Images in equally wide bins of confidence from 0 to 1, (bins,) each.

    Args:
        counts: Images.
        accuracy: Share of right guesses; 0 in an empty bin.
        confidence: Mean confidence; 0 in an empty bin.
    """

    counts: Integers
    accuracy: Array
    confidence: Array

    @property
    def expected_calibration_error(self) -> float:
        """sum over bins of (images in bin / images) |accuracy - confidence|, 0 to 1.

        Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, arXiv:1706.04599.
        """
        return float((self.counts * np.abs(self.accuracy - self.confidence)).sum() / self.counts.sum())


def reliability(confidence: Array, right: npt.NDArray[np.bool_], bins: int = BINS) -> Reliability:
    """Confidence against accuracy.

    Args:
        confidence: Probability of each first guess, (n,).
        right: Whether it is right, (n,).
        bins: Number of bins.
    """
    bin_of = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    counts = np.bincount(bin_of, minlength=bins)
    total = np.maximum(counts, 1)
    accuracy = np.bincount(bin_of, weights=right, minlength=bins) / total
    mean = np.bincount(bin_of, weights=confidence, minlength=bins) / total
    return Reliability(counts, accuracy, mean)


def fit_temperature(probabilities: npt.ArrayLike, labels: Integers) -> float:
    """The number T that probabilities are the surest right by: minimizes the mean of -log softmax(log p / T)[label].

    Order and first guess stay as they are (Guo et al., ICML 2017, arXiv:1706.04599, section 4.2).

    Args:
        probabilities: (n, classes), 0 to 1.
        labels: True classes, (n,).

    Returns:
        T, from 1/20 to 20: more than 1 where the model was too sure.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    logits = _logits(probabilities)

    def loss(log_temperature: float) -> float:
        scaled = log_softmax(logits / np.exp(log_temperature), axis=1)
        return float(-scaled[np.arange(len(labels)), labels].mean())

    widest = float(np.log(20))
    return float(np.exp(minimize_scalar(loss, bounds=(-widest, widest), method="bounded", options={"xatol": 1e-6}).x))


def at_temperature(probabilities: npt.ArrayLike, temperature: float) -> Array:
    """Probabilities, (n, classes), after their logits are divided by a number above 0."""
    from scipy.special import softmax

    scaled: Array = softmax(_logits(probabilities) / temperature, axis=1)
    return scaled


def _logits(probabilities: npt.ArrayLike) -> Array:
    return np.log(np.maximum(np.asarray(probabilities, dtype=np.float64), np.finfo(np.float32).tiny))


def wilson(share: npt.ArrayLike, n: npt.ArrayLike) -> tuple[Array, Array]:
    """95 % interval of a share, 0 to 1, of n images that were drawn alike (Wilson, 1927)."""
    share, n, z = np.asarray(share, dtype=np.float64), np.asarray(n), 1.96
    center = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return np.minimum(center - half, share), np.maximum(center + half, share)
