"""Times of functions that take turns, so that a machine that slows down slows all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Timing:
    """Seconds per call, one value per round, or what is made of them; rounds of different functions belong together."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def ratio(self, other: Timing) -> Timing:
        """Self over other, round by round."""
        return Timing(tuple(ours / theirs for ours, theirs in zip(self.seconds, other.seconds, strict=True)))

    def rate(self, count: int) -> Timing:
        """How many per second, if a call does `count`."""
        return Timing(tuple(count / seconds for seconds in self.seconds))

    def scaled(self, factor: float) -> Timing:
        """In another unit."""
        return Timing(tuple(factor * seconds for seconds in self.seconds))

    @staticmethod
    def sum_of(parts: Sequence[Timing]) -> Timing:
        """What functions take one after the other, round by round."""
        return Timing(tuple(map(sum, zip(*(part.seconds for part in parts), strict=True))))

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and the third; the value itself of a single round."""
        if len(self.seconds) == 1:
            return self.seconds[0], self.seconds[0]
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return low, high


def take_turns(
    steps: Mapping[str, Callable[[], object]], rounds: int, device: torch.device, warmup: int = 2
) -> dict[str, Timing]:
    """Time every function once per round, after `warmup` calls of each that are not counted.

    Args:
        steps: Name -> function.
        rounds: How often each is timed.
        device: What they run on; a GPU is waited for.
        warmup: Calls before the first round: what is compiled, cached or allocated once is not what is measured.
    """
    for step in steps.values():
        for _ in range(warmup):
            step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            _wait(device)
            start = time.perf_counter()
            step()
            _wait(device)
            seconds[name].append(time.perf_counter() - start)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def _wait(device: torch.device) -> None:
    if device.type not in ("cpu", "meta"):
        torch.accelerator.synchronize(device)
