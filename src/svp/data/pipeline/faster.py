"""The steps of a transform that take the time, by kernels that give the same numbers as Pillow and torchvision, to the bit.

A resize takes a third of Pillow's time, and conversion and normalization half of torchvision's. Kernels are imported when the
first image is large enough to be worth it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data.transforms import MaybeToTensor, RandomResizedCropAndInterpolation
from torch import Tensor
from torchvision import transforms as tv

from svp.inputs import Transform
from svp.resizing import LEAST, THIN, CentralResize

_FILTERS = (Image.Resampling.BOX, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)  # the others need exact sines
_WORTH = 10_000
"""Pixels of an image and of what is made of it, from which on kernels are faster whatever else they take."""


def faster(transform: Transform) -> Transform:
    """A transform that draws the same random numbers and gives the same values in less time.

    Steps of other classes, those derived from torchvision's and timm's among them, stay as they are.
    """
    composed: Any = transform
    if type(composed) is not tv.Compose:
        return transform
    steps = list(composed.transforms)
    match [type(step) for step in steps[:2]]:
        case [kind, *_] if kind is RandomResizedCropAndInterpolation:
            steps[:1] = [_RandomCrop(steps[0])]
        case [kind, cut] if kind in (tv.Resize, CentralResize) and cut is tv.CenterCrop and steps[0].max_size is None:
            steps[:2] = [_CentralCrop(*steps[:2])]
    for at, (step, following) in enumerate(pairwise(steps)):
        if type(step) is MaybeToTensor and type(following) is tv.Normalize:
            steps[at : at + 2] = [_ToNormalized(step, following)]
            break
    changed: Transform = tv.Compose(steps)
    return changed


def normalized_values(mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """What becomes of every value of a byte, (channels, 256), by the arithmetic of torchvision's to_tensor and normalize."""
    means, stds = (torch.as_tensor(values, dtype=torch.float32).view(-1, 1) for values in (mean, std))
    return (torch.arange(256).repeat(len(means), 1) / 255 - means) / stds


class _RandomCrop:
    """timm's random resized crop."""

    def __init__(self, step: RandomResizedCropAndInterpolation) -> None:
        self.step = step

    def __call__(self, image: Image.Image) -> Image.Image:
        step = self.step
        top, left, height, width = step.get_params(image, step.scale, step.ratio)
        mode = step.interpolation
        if isinstance(mode, tuple | list):
            mode = random.choice(mode)
        part = image.crop((left, top, left + width, top + height))
        size, method = step.size[::-1], Image.Resampling[mode.name]
        if not _fits(part, size, size, method):
            return part.resize(size, method)
        from svp.data.pipeline.resampling import resize  # compiles

        return resize(part, size, method)


class _CentralCrop:
    """torchvision's resize and the central crop behind it: only the part that is kept is made."""

    def __init__(self, whole: tv.Resize, cut: tv.CenterCrop) -> None:
        self.whole, self.cut = whole, cut

    def __call__(self, image: Image.Image) -> Any:
        size, (height, width) = self._size(image), self.cut.size
        method = Image.Resampling.__members__.get(self.whole.interpolation.name)  # torchvision knows one more
        if method is None or not _fits(image, size, (width, height), method) or size[0] < width or size[1] < height:
            return self.cut(self.whole(image))
        from svp.data.pipeline.resampling import resize  # compiles

        left, top = (round((side - kept) / 2.0) for side, kept in zip(size, (width, height), strict=True))
        return resize(image, size, method, (left, top, left + width, top + height))

    def _size(self, image: Image.Image) -> tuple[int, int]:
        """Width and height by torchvision's arithmetic."""
        side = self.whole.size
        if not isinstance(side, int) and len(side) == 2:
            return side[1], side[0]
        short = side if isinstance(side, int) else side[0]
        long = int(short * max(image.size) / min(image.size))
        return (short, long) if image.width < image.height else (long, short)


class _ToNormalized:
    """To tensor and normalize."""

    def __init__(self, to_tensor: MaybeToTensor, normalize: tv.Normalize) -> None:
        self.to_tensor, self.normalize = to_tensor, normalize
        self.values = normalized_values(normalize.mean, normalize.std)

    def __call__(self, image: Any) -> Tensor:
        fits = isinstance(image, Image.Image) and image.mode == "RGB" and len(self.values) == 3
        if not fits or image.width * image.height < _WORTH:
            return self.normalize(self.to_tensor(image))
        from svp.data.pipeline.kernels import normalize  # compiles

        ready = torch.empty(1, 3, image.height, image.width)
        normalize(np.array(image)[None], self.values.numpy(), ready.numpy())
        return ready[0]


def _fits(image: Image.Image, size: tuple[int, int], made: tuple[int, int], method: Image.Resampling) -> bool:
    return (
        image.mode == "RGB"
        and method in _FILTERS
        and max(image.size) < THIN * min(image.size)
        and min(*made, *size) >= LEAST
        and image.width * image.height + made[0] * made[1] >= _WORTH
    )
