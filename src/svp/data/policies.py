"""timm's augmentation policies, mended and quickened. What they draw, and how often, stays timm's."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image
from timm.data import auto_augment as policies
from timm.data.auto_augment import AugmentOp, AugMixAugment, AutoAugment, RandAugment


def mend(step: Any) -> None:
    """Let posterizing leave at least one bit per channel, in place.

    timm asks for none at the strongest magnitude, which "rand-m9-mstd0.5-inc1" reaches once in a thousand images: black
    with an old Pillow, an error with a new one.
    """
    for op in _operations(step):
        if op.aug_fn is policies.posterize:
            op.aug_fn = _posterize


def quicken(step: Any) -> None:
    """Let rotations and shears resample bilinearly, by a kernel of ours, and translations go by whole pixels, in place.

    With Pillow's bicubic resampling these five of RandAugment's fifteen operations take four fifths of its time.
    """
    for op in _operations(step):
        op.aug_fn = _QUICK.get(op.aug_fn, op.aug_fn)


def _operations(step: Any) -> Iterator[AugmentOp]:
    if isinstance(step, RandAugment | AugMixAugment):
        yield from step.ops
    elif isinstance(step, AutoAugment):
        for sub_policy in step.policy:
            yield from sub_policy


def _posterize(image: Image.Image, bits_to_keep: int, **options: Any) -> Image.Image:
    return policies.posterize(image, max(bits_to_keep, 1), **options)


def _rotate(image: Image.Image, degrees: float, *, fillcolor: Any, **_: Any) -> Image.Image:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = image.width / 2, image.height / 2
    return _warp(image, (cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y), fillcolor)


def _shear_x(image: Image.Image, factor: float, *, fillcolor: Any, **_: Any) -> Image.Image:
    return _warp(image, (1, factor, 0, 0, 1, 0), fillcolor)


def _shear_y(image: Image.Image, factor: float, *, fillcolor: Any, **_: Any) -> Image.Image:
    return _warp(image, (1, 0, 0, factor, 1, 0), fillcolor)


def _warp(image: Image.Image, matrix: tuple[float, ...], fillcolor: Any) -> Image.Image:
    from svp.data import kernels  # compiles

    pixels = np.array(image)
    warped = np.empty_like(pixels)
    kernels.warp(pixels, np.array(matrix, dtype=np.float64), np.array(fillcolor, dtype=np.uint8), warped)
    return Image.fromarray(warped)


def _translate_x(image: Image.Image, pixels: float, *, fillcolor: Any, **_: Any) -> Image.Image:
    return _translate(image, round(pixels), 0, fillcolor)


def _translate_y(image: Image.Image, pixels: float, *, fillcolor: Any, **_: Any) -> Image.Image:
    return _translate(image, 0, round(pixels), fillcolor)


def _translate_x_rel(image: Image.Image, share: float, *, fillcolor: Any, **_: Any) -> Image.Image:
    return _translate(image, round(share * image.width), 0, fillcolor)


def _translate_y_rel(image: Image.Image, share: float, *, fillcolor: Any, **_: Any) -> Image.Image:
    return _translate(image, 0, round(share * image.height), fillcolor)


def _translate(image: Image.Image, x: int, y: int, fillcolor: Any) -> Image.Image:
    moved = Image.new(image.mode, image.size, fillcolor)
    moved.paste(image, (-x, -y))  # the sign of an inverse map, as in Pillow's transform
    return moved


_QUICK: dict[Any, Callable[..., Image.Image]] = {
    policies.rotate: _rotate,
    policies.shear_x: _shear_x,
    policies.shear_y: _shear_y,
    policies.translate_x_abs: _translate_x,
    policies.translate_y_abs: _translate_y,
    policies.translate_x_rel: _translate_x_rel,
    policies.translate_y_rel: _translate_y_rel,
}
