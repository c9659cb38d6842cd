"""The resizes of evaluation for images of any shape: of a long, thin one only the part that the central crop keeps is made.

At 224 pixels, an image of 20,000 x 2 pixels would become one of 2,560,000 x 256 pixels, 2 GB, of which 224 columns are kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import PIL
from PIL import Image
from timm.data.transforms import ResizeKeepRatio
from torchvision.transforms import InterpolationMode, Resize

Array = np.ndarray[Any, np.dtype[Any]]

THIN = 16
"""From this ratio of the sides on, only the part that is kept is made."""

LEAST = 6
"""Fewest columns that the kernel of `svp.data.pipeline.resampling` makes, since it makes sixteen values at a time."""

_TALL = 100 if [int(part) for part in PIL.__version__.split(".")[:2]] >= [12, 2] else math.inf
"""Above this ratio of height to width Pillow resizes the height first, if that becomes less."""

_FRACTION_BITS = 22  # of the weights, as in Pillow


class CentralResize(Resize):  # type: ignore[misc]
    """Resize the short side to `size`, and make of a thin image only the central `keep` pixels of the long side.

    After it, a central crop to `keep` pixels gives the same numbers as after ``torchvision.transforms.Resize``.

    Args:
        size: Short side of the outcome in pixels.
        keep: Long side of the outcome in pixels, where the image is thin.
        interpolation: Filter, as for ``Resize``.
    """

    def __init__(self, size: int, keep: int, interpolation: InterpolationMode) -> None:
        super().__init__(size, interpolation)
        self.keep = keep

    def forward(self, img: Any) -> Any:
        """Resize an image."""
        if not isinstance(img, Image.Image) or img.mode != "RGB" or max(img.size) < THIN * min(img.size):
            return super().forward(img)
        length = int(self.size * max(img.size) / min(img.size))  # of the long side; torchvision's arithmetic, as the next line
        kept = Kept(length, round((length - self.keep) / 2.0), self.keep)
        method = Image.Resampling[self.interpolation.name]
        # Pillow resizes the width first and the height then, with whole values between; `_TALL` ones the other way around
        if img.width > img.height:
            return Image.fromarray(_resize_width(np.asarray(img), kept, method)).resize((self.keep, self.size), method)
        if img.height > _TALL * img.width and length < img.height:
            return _resize_height(img, kept, method).resize((self.size, self.keep), method)
        return _resize_height(img.resize((self.size, img.height), method), kept, method)


class BorderResize(ResizeKeepRatio):  # type: ignore[misc]
    """Resize the long side; of a thin image, one row or column at least is left of the short one."""

    @staticmethod
    def get_params(*arguments: Any, **options: Any) -> list[int]:
        """Height and width of the outcome."""
        return [max(side, 1) for side in ResizeKeepRatio.get_params(*arguments, **options)]


@dataclass(frozen=True)
class Kept:
    """`number` columns from `start` on, of an image of `length` columns."""

    length: int
    start: int
    number: int


def _resize_width(pixels: Array, kept: Kept, method: Image.Resampling) -> Array:
    """Some columns of what Pillow makes of uint8 (height, width, 3), to the bit."""
    width = pixels.shape[1]
    if method == Image.Resampling.NEAREST:
        return pixels[:, _nearest(width, kept)]
    firsts, weights = filter_weights(width, kept, method)
    made = np.full((pixels.shape[0], kept.number, 3), 1 << (_FRACTION_BITS - 1), np.int32)  # to round
    for k in range(weights.shape[1]):
        source = np.minimum(firsts + k, width - 1)  # beyond the edge all weights are 0
        made += pixels[:, source].astype(np.int32) * weights[:, k, None]
    return (made >> _FRACTION_BITS).clip(0, 255).astype(np.uint8)


def _resize_height(image: Image.Image, kept: Kept, method: Image.Resampling) -> Image.Image:
    """The same of rows."""
    turned = np.asarray(image).transpose(1, 0, 2)
    return Image.fromarray(np.ascontiguousarray(_resize_width(turned, kept, method).transpose(1, 0, 2)))


def _nearest(width: int, kept: Kept) -> Array:
    steps = np.full(kept.start + kept.number, width / kept.length)
    steps[0] /= 2
    return np.add.accumulate(steps)[kept.start :].astype(np.int64)  # summed one by one, as Pillow does


def filter_weights(width: int, kept: Kept, method: Image.Resampling) -> tuple[Array, Array]:
    """First column of the source, (number,), and weights of it and the next ones, (number, taps), per column that is made."""
    return (_kept_weights if width <= _OFTEN else _weights)(width, kept, method)


_OFTEN = 1024
"""Columns of images up to which sides of crops come again; weights of larger ones take more memory than they save time."""


def _weights(width: int, kept: Kept, method: Image.Resampling) -> tuple[Array, Array]:
    function, reach = _FILTERS[method]
    scale = width / kept.length
    stretch = max(scale, 1.0)
    centers = (np.arange(kept.start, kept.start + kept.number) + 0.5) * scale
    firsts = (centers - reach * stretch + 0.5).astype(np.int64).clip(0)
    ends = (centers + reach * stretch + 0.5).astype(np.int64).clip(None, width)
    columns = firsts[:, None] + np.arange(math.ceil(reach * stretch) * 2 + 1)
    weights = function((columns - centers[:, None] + 0.5) * (1.0 / stretch))
    weights[columns >= ends[:, None]] = 0
    total = np.add.accumulate(weights, axis=1)[:, -1:]  # in Pillow's order
    weights = np.divide(weights, total, out=weights, where=total != 0)
    fixed = np.trunc(weights * (1 << _FRACTION_BITS) + np.copysign(0.5, weights)).astype(np.int32)
    return firsts, np.ascontiguousarray(fixed[:, : np.flatnonzero(fixed.any(axis=0))[-1] + 1])


_kept_weights = lru_cache(maxsize=1024)(_weights)


def _box(x: Array) -> Array:
    return np.where((x > -0.5) & (x <= 0.5), 1.0, 0.0)


def _bilinear(x: Array) -> Array:
    return np.maximum(1.0 - np.abs(x), 0.0)


@np.vectorize
def _hamming(x: float) -> float:
    x = abs(x)
    if x == 0:
        return 1.0
    return math.sin(x * math.pi) / (x * math.pi) * (0.54 + 0.46 * math.cos(x * math.pi)) if x < 1 else 0.0


def _bicubic(x: Array) -> Array:
    x, a = np.abs(x), -0.5
    outer = np.where(x < 2.0, (((x - 5) * x + 8) * x - 4) * a, 0.0)
    return np.where(x < 1.0, ((a + 2.0) * x - (a + 3.0)) * x * x + 1, outer)


@np.vectorize
def _lanczos(x: float) -> float:
    return _sinc(x) * _sinc(x / 3) if -3.0 <= x < 3.0 else 0.0


def _sinc(x: float) -> float:
    return 1.0 if x == 0 else math.sin(x * math.pi) / (x * math.pi)


_FILTERS: dict[Image.Resampling, tuple[Callable[[Array], Array], float]] = {
    Image.Resampling.BOX: (_box, 0.5),
    Image.Resampling.BILINEAR: (_bilinear, 1.0),
    Image.Resampling.HAMMING: (_hamming, 1.0),
    Image.Resampling.BICUBIC: (_bicubic, 2.0),
    Image.Resampling.LANCZOS: (_lanczos, 3.0),
}
"""Pillow's filters and how far they reach."""
