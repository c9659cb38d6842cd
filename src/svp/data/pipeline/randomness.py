"""Random numbers of training items: each follows from a key, and the caller's generators are left as they were."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def own_randomness() -> Iterator[None]:
    """Put the state of the generators that transforms draw from back at the end."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def seed_by(*key: int) -> None:
    """Seed the generators that transforms draw from by key."""
    seed = mix(*key)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would touch the accelerator's as well


def mix(*key: int) -> int:
    """A well mixed 63-bit seed: neighboring keys give unrelated streams."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "big") >> 1
