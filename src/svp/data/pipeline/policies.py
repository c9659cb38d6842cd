"""timm's augmentation policies, corrected and made faster. What they draw, and how often, stays timm's."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import auto_augment as policies
from timm.data.auto_augment import AugmentOp, AugMixAugment, AutoAugment, RandAugment
from torchvision import transforms as tv

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
"""(height, width, 3)."""


def fix_posterize(step: Any) -> None:
    """Let posterizing leave at least one bit per channel, in place.

    timm asks for none at the strongest magnitude, which "rand-m9-mstd0.5-inc1" reaches once in a thousand images: black
    with an old Pillow, an error with a new one.
    """
    for op in _operations(step):
        if op.aug_fn is policies.posterize:
            op.aug_fn = _posterize


def on_arrays(step: Any) -> Callable[[Pixels], Pixels]:
    """The step of a transform, for arrays; flips and the operations of a policy are changed in place.

    With bicubic resampling by Pillow, rotations, shears and translations, five of RandAugment's fifteen operations, take four
    fifths of its time. Here the first two resample bilinearly, and translations go by whole pixels. An operation that
    maps colors to colors is done by a table of them. The others are Pillow's as they were.
    """
    if isinstance(step, tv.RandomHorizontalFlip | tv.RandomVerticalFlip):
        return partial(_by_pytorch, step)
    if isinstance(step, RandAugment | AutoAugment):
        for op in _operations(step):
            if op.aug_fn in _GEOMETRIC:
                op.aug_fn = _GEOMETRIC[op.aug_fn]
            else:
                op.aug_fn = partial(_by_table if op.aug_fn in _POINTWISE else _by_pillow, op.aug_fn)
        return step
    return partial(_by_pillow, step)


def _operations(step: Any) -> Iterator[AugmentOp]:
    if isinstance(step, RandAugment | AugMixAugment):
        yield from step.ops
    elif isinstance(step, AutoAugment):
        for sub_policy in step.policy:
            yield from sub_policy


def _posterize(image: Image.Image, bits_to_keep: int, **options: Any) -> Image.Image:
    return policies.posterize(image, max(bits_to_keep, 1), **options)


def _by_pytorch(step: Callable[[torch.Tensor], torch.Tensor], pixels: Pixels) -> Pixels:
    return step(torch.from_numpy(pixels).permute(2, 0, 1)).permute(1, 2, 0).contiguous().numpy()


def _by_pillow(function: Callable[..., Image.Image], pixels: Pixels, *arguments: Any, **options: Any) -> Pixels:
    return np.array(function(Image.fromarray(pixels), *arguments, **options))


def _by_table(function: Callable[..., Image.Image], pixels: Pixels, *arguments: Any, **options: Any) -> Pixels:
    from svp.data.pipeline import kernels  # compiles

    grays = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 256, 3)
    recolored = np.empty_like(pixels)
    kernels.recolor(pixels, _by_pillow(function, grays, *arguments, **options)[0], recolored)
    return recolored


def _rotate(pixels: Pixels, degrees: float, **options: Any) -> Pixels:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    y, x = pixels.shape[0] / 2, pixels.shape[1] / 2
    return _warp(pixels, (cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y), **options)


def _shear_x(pixels: Pixels, factor: float, **options: Any) -> Pixels:
    return _warp(pixels, (1, factor, 0, 0, 1, 0), **options)


def _shear_y(pixels: Pixels, factor: float, **options: Any) -> Pixels:
    return _warp(pixels, (1, 0, 0, factor, 1, 0), **options)


def _translate_x(pixels: Pixels, distance: float, **options: Any) -> Pixels:
    return _warp(pixels, (1, 0, round(distance), 0, 1, 0), **options)


def _translate_y(pixels: Pixels, distance: float, **options: Any) -> Pixels:
    return _warp(pixels, (1, 0, 0, 0, 1, round(distance)), **options)


def _translate_x_rel(pixels: Pixels, share: float, **options: Any) -> Pixels:
    return _translate_x(pixels, share * pixels.shape[1], **options)


def _translate_y_rel(pixels: Pixels, share: float, **options: Any) -> Pixels:
    return _translate_y(pixels, share * pixels.shape[0], **options)


def _warp(pixels: Pixels, matrix: tuple[float, ...], *, fillcolor: Any, **_: Any) -> Pixels:
    from svp.data.pipeline import kernels  # compiles

    warped = np.empty_like(pixels)
    kernels.warp(pixels, np.array(matrix, dtype=np.float64), np.array(fillcolor, dtype=np.uint8), warped)
    return warped


_GEOMETRIC: dict[Any, Callable[..., Pixels]] = {
    policies.rotate: _rotate,
    policies.shear_x: _shear_x,
    policies.shear_y: _shear_y,
    policies.translate_x_abs: _translate_x,
    policies.translate_y_abs: _translate_y,
    policies.translate_x_rel: _translate_x_rel,
    policies.translate_y_rel: _translate_y_rel,
}
_POINTWISE = {policies.invert, _posterize, policies.solarize, policies.solarize_add, policies.brightness}
