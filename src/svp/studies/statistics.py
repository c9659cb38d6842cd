"""Means, spreads and paired differences over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_RESAMPLES = 10_000


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (n - 1) of n values; the deviation is None for a single one."""

    mean: float
    std: float | None
    n: int


@dataclass(frozen=True)
class Difference:
    """Mean paired difference and the interval that 95 % of its bootstrap resamples lie in; None from a single pair."""

    mean: float
    low: float | None
    high: float | None
    n: int


def spread(values: Sequence[float]) -> Spread | None:
    """Of values, one per seed; None if there are none."""
    if not values:
        return None
    return Spread(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None, len(values))


def averaged(parts: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """Seed -> mean over the data sets, for the seeds that every data set has."""
    seeds = [seed for seed in parts[0] if all(seed in part for part in parts)] if parts else []
    return {seed: float(np.mean([part[seed] for part in parts])) for seed in seeds}


def paired_difference(
    ours: Sequence[Mapping[int, float]], theirs: Sequence[Mapping[int, float]], confidence: float = 0.95
) -> Difference | None:
    """The mean of ours - theirs over data sets, each the mean over the seeds that both have, with a bootstrap interval.

    Seeds are resampled with replacement, in pairs and in every data set apart; the data sets are kept as they are. So the
    interval speaks of other seeds, not of other data sets. Of few seeds it is too narrow: with 3, every resample is one of 10
    mixtures of the same three differences.

    Args:
        ours: Per data set, seed -> score.
        theirs: The same of the reference.
        confidence: Share of resamples in the interval, 0..1.

    Returns:
        None where a data set has no pair. The interval is None where one has a single pair. The resampling is seeded: the
        same scores give the same interval.
    """
    differences = [
        np.array([our[seed] - their[seed] for seed in our if seed in their]) for our, their in zip(ours, theirs, strict=True)
    ]
    if not differences or not all(len(part) for part in differences):
        return None
    mean, n = float(np.mean([part.mean() for part in differences])), min(len(part) for part in differences)
    if n == 1:
        return Difference(mean, None, None, n)
    generator = np.random.default_rng(0)
    resampled = np.mean([generator.choice(part, (_RESAMPLES, len(part))).mean(1) for part in differences], axis=0)
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Difference(mean, float(low), float(high), n)
