"""Images of another number of channels than three: what a channel is normalized by, and transforms band by band."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

Rgb = tuple[float, float, float]
T = TypeVar("T")


def per_channel(of_rgb: Sequence[float], channels: int) -> tuple[float, ...]:
    """Values for the channels of an image, from those for red, green and blue.

    It follows what ``timm`` makes of the weights of the patch embedding: a single channel has the sum of the weights and the
    mean of the values, channel i of several the weights and the value of color i mod 3.
    """
    if channels == 1:
        return (sum(of_rgb) / len(of_rgb),)
    return tuple(of_rgb[i % len(of_rgb)] for i in range(channels))


class EachBand:
    """Applies a transform to each band of an image and stacks the outcomes.

    Args:
        transforms: One for each band: gray image to float tensor, (1, height, width).
        random: They draw random numbers, the same for all bands. Others leave the generators alone, and so may run in threads.
    """

    def __init__(self, transforms: Sequence[Callable[[Image], Tensor]], *, random: bool = False) -> None:
        self.transforms, self.random = tuple(transforms), random

    def __call__(self, bands: Sequence[Image]) -> Tensor:
        import torch

        if not self.random:
            return torch.cat([transform(band) for transform, band in zip(self.transforms, bands, strict=True)])
        return torch.cat(self._with_same_draws(bands))

    def _with_same_draws(self, bands: Sequence[Image]) -> list[Tensor]:
        import numpy as np
        import torch

        python, numpy, pytorch = random.getstate(), np.random.get_state(), torch.get_rng_state()
        made = []
        for transform, band in zip(self.transforms, bands, strict=True):
            random.setstate(python)
            np.random.set_state(numpy)
            torch.set_rng_state(pytorch)
            made.append(transform(band))
        return made
