"""A transform taken apart: what of an image can be prepared once and kept, and what is drawn anew every time.

What is kept is a uint8 image, and uint8 images are what goes from the worker processes to the device: a quarter of the
bytes. For evaluation nothing else is left to do than to normalize it, and the outcome equals that of the whole transform
exactly. For training the random resized crop is taken from an image whose short side is no longer
than `kept_side`; everything random is drawn as the whole transform draws it, from the same generators in the same order
(but for `train_interpolation="random"`, where the operations of a policy draw no interpolation). Training differs from
the whole transform in this, and in nothing else:

- Images larger than `kept_side` are shrunk to it first (bicubic, antialiased). Crops of the mean area or more are still
  scaled down to the model's size; smaller ones are enlarged, and are softer than they were if cut from the original. An
  image not larger than that is kept as it is, and its crops are the same pixels.
- The crop is resized by PyTorch's `interpolate` instead of Pillow: values differ by 1 or 2 of 255, and by more only
  where bicubic overshoots at both ends of the range, as in noise.
- The noise of random erasing is rounded to whole values of 0..255, and cut off there.
- Rotations and shears resample bilinearly, not as the crop does, and translations go by whole pixels (`policies.on_arrays`).
"""

import copy
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import CenterCropOrPad, MaybeToTensor, RandomResizedCropAndInterpolation, ResizeKeepRatio
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision import transforms as tv
from torchvision.transforms import functional as on_images

from svp.data.pipeline.policies import on_arrays
from svp.inputs import Transform

_REPEATABLE = (tv.Resize, tv.CenterCrop, CenterCropOrPad, ResizeKeepRatio)  # the last as evaluation uses it


@dataclass(frozen=True)
class Stages:
    """The steps of a transform, in order. All images come out in the same size.

    Attributes:
        size: Height and width of the outcome in pixels.
        prepare: Resizes and crops that give the same for an image every time; none where a random crop comes first.
        crop: The random resized crop, if there is one.
        vary: Further steps, on arrays: flips, policy, color jitter.
        mean: Mean that the normalization subtracts, (3, 1, 1).
        std: Standard deviation that it divides by, (3, 1, 1).
        erase: Random erasing, if there is any.
    """

    size: tuple[int, int]
    prepare: tuple[Any, ...]
    crop: Any | None
    vary: tuple[Any, ...]
    mean: Tensor
    std: Tensor
    erase: Any | None

    @property
    def kept_side(self) -> int | None:
        """The longest short side in pixels that an image is kept at, if it is to be cropped at random.

        A crop of the mean area has the model's size then.
        """
        if self.crop is None:
            return None
        return math.ceil(max(self.size) / math.sqrt(sum(self.crop.scale) / 2))

    def kept(self, image: Image.Image) -> Image.Image:
        """What is to be kept of an RGB image."""
        if self.kept_side is not None and min(image.size) > self.kept_side:
            image = on_images.resize(image, self.kept_side, on_images.InterpolationMode.BICUBIC)
        return _after(self.prepare, image)

    def kept_bytes(self, width: int, height: int) -> int:
        """Size of what is kept of an image of that size, give or take a row of pixels."""
        if self.kept_side is None:
            height, width = self.size
        else:
            scale = min(1.0, self.kept_side / min(width, height))
            width, height = round(width * scale), round(height * scale)
        return 3 * width * height

    @property
    def key(self) -> str:
        """All that decides what is kept of an image."""
        return f"kept_side={self.kept_side} prepare={self.prepare}"

    def finish(self, kept: Tensor) -> Tensor:
        """Do the rest but for the normalization: a kept image to one of `size`, both uint8 (height, width, 3)."""
        image = kept if self.crop is None else self._cropped(kept)
        if self.vary:
            image = torch.from_numpy(_after(self.vary, image.numpy()))
        if self.erase is not None:
            if image.data_ptr() == kept.data_ptr():
                image = image.clone()  # what is kept is not ours to write to
            self.erase(_NormalizedView(image, self.mean, self.std))
        return image

    def _cropped(self, kept: Tensor) -> Tensor:
        assert self.crop is not None
        top, left, height, width = self.crop.get_params(kept.permute(2, 0, 1), self.crop.scale, self.crop.ratio)
        mode = self.crop.interpolation
        if isinstance(mode, tuple | list):
            mode = random.choice(mode)
        part = kept[top : top + height, left : left + width].contiguous()
        # a batch of one in channels-last order: PyTorch's kernel for that layout is twice as fast
        batch = part[None].permute(0, 3, 1, 2)
        resized = interpolate(batch, self.size, mode=mode.value, antialias=True)
        return resized[0].permute(1, 2, 0).contiguous()


class _NormalizedView:
    """An image as timm's `RandomErasing` writes to it: normalized, (3, height, width)."""

    dtype = torch.float32

    def __init__(self, image: Tensor, mean: Tensor, std: Tensor) -> None:
        self._pixels = image.permute(2, 0, 1)
        self._mean, self._std = mean, std

    def size(self) -> tuple[int, ...]:
        return tuple(self._pixels.shape)

    def __setitem__(self, where: Any, values: Tensor) -> None:
        self._pixels[where] = ((values * self._std + self._mean) * 255).round().clamp(0, 255).to(torch.uint8)


def take_apart(transform: Transform) -> Stages:
    """The stages of what `train_transform` or `eval_transform` made.

    Raises:
        TypeError: Another transform.
    """
    if not isinstance(transform, tv.Compose):
        raise TypeError(f"only transforms of svp.data can be taken apart, not {transform!r}")
    steps = [copy.deepcopy(step) for step in transform.transforms]
    erase = steps.pop() if isinstance(steps[-1], RandomErasing) else None
    match steps:
        case [*on_image, MaybeToTensor(), tv.Normalize() as normalize]:
            pass
        case _:
            raise TypeError(f"only transforms that end in MaybeToTensor and Normalize can be taken apart, not {transform!r}")
    prepare = []
    while on_image and isinstance(on_image[0], _REPEATABLE):
        prepare.append(on_image.pop(0))
    crop = on_image.pop(0) if on_image and isinstance(on_image[0], RandomResizedCropAndInterpolation) else None
    if crop is None and not prepare:
        raise TypeError(f"only transforms that begin with a crop or a resize can be taken apart, not {transform!r}")
    mean, std = (torch.as_tensor(values, dtype=torch.float32).view(3, 1, 1) for values in (normalize.mean, normalize.std))
    width, height = crop.size[::-1] if crop is not None else _after(prepare, Image.new("RGB", (16, 16))).size
    return Stages((height, width), tuple(prepare), crop, tuple(on_arrays(step) for step in on_image), mean, std, erase)


def _after(steps: Sequence[Any], image: Any) -> Any:
    for step in steps:
        image = step(image)
    return image
