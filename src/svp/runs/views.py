"""``--tta``: an image is seen in several views, and the mean of their probabilities counts.

tta           views of an image
flip          as it is, and flipped left to right: 2
crops         as it is, and four corners of the image at 8/7 of the size: 5
flip+crops    all of these, and flipped left to right: 10

A flip helps where left and right mean the same, and does harm where they do not, as with digits.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from svp.inputs import InputConfig, Picture, Transform, eval_transform
from svp.settings import Tta
from svp.tasks import SINGLE_LABEL, Task

_ZOOM = 8 / 7
"""Size that corners are cut from, in sizes of the model: images of 224 pixels from 256, as in training."""


class CornerViews:
    """The image as evaluation prepares it, then its four corners at a larger size: (5, channels, height, width).

    The larger image shows what lies beyond the central crop of evaluation, where there is such a crop.

    Args:
        inputs: How evaluation prepares an image.
    """

    def __init__(self, inputs: InputConfig) -> None:
        self.side, large = inputs.img_size, math.ceil(inputs.img_size * _ZOOM)
        self.ordinary = eval_transform(inputs)
        crop_pct = min(1.0, inputs.crop_pct * large / inputs.img_size)
        self.larger = eval_transform(replace(inputs, img_size=large, crop_pct=crop_pct))

    def __call__(self, image: Picture) -> Tensor:
        large = self.larger(image)
        last = large.shape[-1] - self.side
        corners = [large[:, top : top + self.side, left : left + self.side] for top in (0, last) for left in (0, last)]
        return torch.stack([self.ordinary(image), *corners])


def views_transform(inputs: InputConfig, tta: Tta) -> Transform:
    """What prepares an image for `AveragedViews`: as evaluation does, or with crops, (views, channels, height, width)."""
    return CornerViews(inputs) if "crops" in tta else eval_transform(inputs)


class AveragedViews(nn.Module):
    """A classifier whose logits are those of the mean probabilities of the views of an image.

    Args:
        model: Images, (batch, channels, height, width), to logits, (batch, classes).
        tta: Which views there are.
        task: What the outputs mean, and so what is averaged.
    """

    def __init__(self, model: Any, tta: Tta, task: Task = SINGLE_LABEL) -> None:
        super().__init__()
        self.task = task
        self.model, self.flip = model, "flip" in tta

    def forward(self, images: Tensor) -> Tensor:
        """Logits, (batch, classes), of what `views_transform` prepared: one view at a time."""
        views = images.unbind(1) if images.ndim == 5 else (images,)
        if self.flip:
            views = (*views, *(view.flip(-1) for view in views))
        return self.task.averaged([self.model(view) for view in views])


def describe(tta: Tta) -> str:
    """How often an image is seen, in words."""
    return f"mean of {(5 if 'crops' in tta else 1) * (2 if 'flip' in tta else 1)} views of each image (tta {tta})"
