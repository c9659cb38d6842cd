"""Splits to batches, the same for a seed whatever the number of workers and processes.

Training items are asked for by (epoch, index), and all randomness of an item comes from (seed, epoch, index): it does
not matter which worker prepares it, or after how many others.
"""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from svp.data.images import load_image
from svp.data.splits import Split
from svp.data.transforms import Transform

Item = tuple[Tensor, int, int]
"""Image (3, height, width), label, index in the split."""


class ImageListDataset(Dataset[Item]):
    """The images of a split, transformed.

    A key is an index, or (epoch, index) for an item whose random transform is drawn from (seed, epoch, index); the
    caller's random generators are then left as they were.

    Raises:
        UnreadableImageError: On access, a file that cannot be decoded.
    """

    def __init__(self, split: Split, transform: Transform, seed: int = 0) -> None:
        self.split = split
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, key: int | tuple[int, int]) -> Item:
        if isinstance(key, tuple):
            epoch, index = key
            image = load_image(self.split.paths[index])
            with _seeded(self.seed, epoch, index):
                return self.transform(image), self.split.labels[index], index
        return self.transform(load_image(self.split.paths[key])), self.split.labels[key], key


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
        generator = torch.Generator().manual_seed(_mix(self.seed, self.epoch))
        order = torch.randperm(self.length, generator=generator).tolist()
        return zip([self.epoch] * self.length, order, strict=True)


def make_loader(
    dataset: ImageListDataset,
    batch_size: int,
    *,
    train: bool,
    seed: int = 0,
    num_workers: int = 0,
    pin_memory: bool = False,
    drop_last: bool = False,
) -> DataLoader[Item]:
    """Batches of (images, labels, indices): (batch, 3, height, width), (batch,), (batch,).

    For training the order comes from an `EpochSampler`, `loader.sampler`, whose `set_epoch` is to be called before each
    epoch; otherwise it is that of the split. Workers live as long as the loader. They are started as the platform
    does; fork is safe, for all that they run after it is Pillow and PyTorch on one thread.

    Args:
        drop_last: Leave an incomplete last batch out, unless it is the only one.
    """
    return DataLoader(
        dataset,
        batch_size,
        sampler=EpochSampler(len(dataset), seed) if train else None,
        num_workers=num_workers,
        pin_memory=pin_memory,
        drop_last=drop_last and len(dataset) >= batch_size,
        generator=torch.Generator().manual_seed(seed),  # else each epoch would draw from the caller's
        persistent_workers=num_workers > 0,
    )


@contextmanager
def _seeded(*key: int) -> Iterator[None]:
    """Seed the generators that transforms draw from by key, and put the caller's state back at the end."""
    python, numpy, seed = random.getstate(), np.random.get_state(), _mix(*key)
    with torch.random.fork_rng(devices=[]):
        try:
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would touch the accelerator's as well
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def _mix(*key: int) -> int:
    """A well mixed 63-bit seed: neighbouring keys give unrelated streams."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "big") >> 1
