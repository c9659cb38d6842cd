"""Means, spreads and paired differences over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
"""Share of all repetitions whose interval holds the true mean, if values are normally distributed."""


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (n - 1) of n values; the deviation is None for a single one."""

    mean: float
    std: float | None
    n: int

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the mean, by Student's t; None of a single value."""
        if self.std is None:
            return None
        from scipy.special import stdtrit

        half = float(stdtrit(self.n - 1, (1 + CONFIDENCE) / 2)) * self.std / self.n**0.5
        return self.mean - half, self.mean + half


@dataclass(frozen=True)
class Difference:
    """Mean paired difference and its 95 % interval, which is None of a single pair."""

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


def paired_difference(ours: Sequence[Mapping[int, float]], theirs: Sequence[Mapping[int, float]]) -> Difference | None:
    """The mean of ours - theirs over data sets, then over the seeds that all of these have on both sides.

    The interval is Student's t over the differences of the seeds: it speaks of other seeds, not of other data sets.

    Args:
        ours: Per data set, seed -> score.
        theirs: The same of the other method.

    Returns:
        None without such a seed. The interval is None of a single one.
    """
    others = averaged(theirs)
    differences = spread([score - others[seed] for seed, score in averaged(ours).items() if seed in others])
    if differences is None:
        return None
    low, high = differences.interval or (None, None)
    return Difference(differences.mean, low, high, differences.n)
