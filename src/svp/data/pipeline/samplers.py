"""In which order training items are asked for: by (epoch, index), in an order that a seed draws."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler

from svp.data.pipeline.randomness import mix


class EpochSampler(Sampler[tuple[int, int]]):
    """Keys (epoch, index) of all items, in an order drawn from (seed, epoch).

    The keys carry the epoch to the workers, which may outlive it.
    """

    def __init__(self, length: int, seed: int = 0) -> None:
        self.length = length
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Take effect at the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        generator = torch.Generator().manual_seed(mix(self.seed, self.epoch))
        order = torch.randperm(self.length, generator=generator).tolist()
        return zip([self.epoch] * self.length, order, strict=True)


class BalancedSampler(EpochSampler):
    """As many keys, but every class is drawn as often as any other, to within one.

    The images of a class take turns: none is drawn once more before all have been. A second turn in an epoch has a number of
    its own in the key, so that an image that comes twice is varied in two ways.

    Args:
        labels: Class of every item.
        seed: Seeds the draw.
    """

    def __init__(self, labels: Sequence[int], seed: int = 0) -> None:
        super().__init__(len(labels), seed)
        self.labels = np.asarray(labels)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        generator = np.random.default_rng(mix(self.seed, self.epoch))
        classes = generator.permutation(np.unique(self.labels))
        keys: list[tuple[int, int]] = []
        for place, label in enumerate(classes):
            indices = np.flatnonzero(self.labels == label)
            draws = len(range(place, self.length, len(classes)))
            turns = -(-draws // len(indices))
            order = [(self.epoch + turn * _TURN, int(i)) for turn in range(turns) for i in generator.permutation(indices)]
            keys += order[:draws]
        return iter([keys[i] for i in generator.permutation(len(keys))])


_TURN = 2**32  # more than there are epochs
