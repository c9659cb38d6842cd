"""How training images are varied: timm's pipeline behind a checked configuration. Evaluation's is in `svp.inputs`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Any, Literal, cast, get_args

from timm.data.transforms_factory import create_transform
from torchvision.transforms import Compose

from svp.bands import EachBand
from svp.data.pipeline.policies import fix_posterize
from svp.errors import InputError
from svp.inputs import InputConfig, Transform, check_choice, eval_transform

TrainCrop = Literal["random", "none"]
_TRAIN_INTERPOLATIONS = ("random", "bicubic", "bilinear")

# timm skips sections that it does not know, so they are checked here: policy, then sections in any order.
_POLICIES = (
    r"rand(-(m\d+|n\d+|p(0?\.\d+|[01])|mstd\d+(\.\d+)?|mmax\d+|inc[01]|t(weights|3aw?)))*",
    r"(original|originalr|v0|v0r|3a)(-mstd\d+(\.\d+)?)?",
    r"augmix(-(m\d+|w\d+|d\d+|b[01]|mstd\d+(\.\d+)?))*",
)


@dataclass(frozen=True)
class AugmentConfig:
    """How training images are varied, in the order of the fields.

    Attributes:
        crop: "random", a random resized crop; "none", resized and cut as in evaluation, where scale_min
            and train_interpolation have no effect.
        scale_min: Smallest share of the image area that the random resized crop takes, above 0 up to 1.
        train_interpolation: Filter of the random resized crop: "bicubic", "bilinear", or "random" for either per image.
        hflip: Probability of a flip left to right; 0 where the side matters, as for digits.
        vflip: Probability of a flip upside down.
        auto_augment: A policy of timm: RandAugment ("rand-m6-mstd0.5-inc1": magnitude 6 of 10, varied by 0.5, stronger
            with magnitude), AutoAugment ("original", "v0", ...), "3a" or AugMix ("augmix-m3"); None for none.
        color_jitter: Largest relative change of brightness, contrast and saturation. As in timm it has no effect beside
            an auto_augment policy, other than the 3a ones.
        random_erasing: Probability that a rectangle is filled with noise, after normalization.
    Raises:
        InputError: A field does not fit; names it.
    """

    crop: TrainCrop = "random"
    scale_min: float = 0.35
    train_interpolation: str = "bicubic"
    hflip: float = 0.5
    vflip: float = 0.0
    auto_augment: str | None = "rand-m6-mstd0.5-inc1"
    color_jitter: float = 0.3
    random_erasing: float = 0.1

    @classmethod
    def none(cls) -> AugmentConfig:
        """No variation: training images are prepared as those of evaluation."""
        return cls(crop="none", hflip=0.0, auto_augment=None, color_jitter=0.0, random_erasing=0.0)

    @property
    def varies(self) -> bool:
        """Whether an image may look different every time."""
        chances = self.hflip, self.vflip, self.color_jitter, self.random_erasing
        return self.crop == "random" or self.auto_augment is not None or any(chances)

    def __post_init__(self) -> None:
        if not 0 < self.scale_min <= 1:
            raise InputError(f"scale_min (={self.scale_min}) must be above 0 and at most 1")
        for name in ("hflip", "vflip", "random_erasing"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} (={getattr(self, name)}) must be a probability, 0 to 1")
        if not 0 <= self.color_jitter < math.inf:
            raise InputError(f"color_jitter (={self.color_jitter}) must be 0 or more")
        check_choice("crop", self.crop, get_args(TrainCrop))
        check_choice("train_interpolation", self.train_interpolation, _TRAIN_INTERPOLATIONS)
        policy = self.auto_augment
        if policy is not None and not any(re.fullmatch(pattern, policy) for pattern in _POLICIES):
            raise InputError(
                f"auto_augment (={policy!r}) is no policy of timm; examples are 'rand-m9-mstd0.5-inc1', 'original', "
                "'3a', 'augmix-m3' and None"
            )


def train_transform(inputs: InputConfig, augment: AugmentConfig) -> Transform:
    """Random resized crop or that of evaluation, flips, policy or color jitter, normalization, random erasing.

    Images of another number of channels than three get no policy and no color jitter, which are made for colors.

    Draws from the generators of random, numpy and torch (CPU).
    """
    if inputs.channels != 3:
        plain = replace(augment, auto_augment=None, color_jitter=0.0)
        return EachBand([_train_steps(inputs, mean, std, plain) for mean, std in inputs.of_each_band], random=True)
    return _train_steps(inputs, inputs.mean, inputs.std, augment)


def least_side(inputs: InputConfig, augment: AugmentConfig) -> int:
    """Shortest side in pixels of an image from which no crop for training has to be enlarged."""
    if augment.crop == "none":
        return inputs.resized
    return math.ceil(inputs.img_size / math.sqrt(augment.scale_min * _NARROWEST))


_NARROWEST = 3 / 4
"""Aspect ratio of the narrowest random crop."""


def _train_steps(inputs: InputConfig, mean: tuple[float, ...], std: tuple[float, ...], augment: AugmentConfig) -> Compose:
    transform: Compose = create_transform(
        inputs.img_size,
        is_training=True,
        scale=(augment.scale_min, 1.0),
        interpolation=augment.train_interpolation,
        hflip=augment.hflip,
        vflip=augment.vflip,
        auto_augment=augment.auto_augment,
        color_jitter=augment.color_jitter,
        mean=mean,
        std=std,
        re_prob=augment.random_erasing,
        re_mode="pixel",
        re_count=1,
    )
    if augment.crop == "none":
        one = inputs if len(mean) == 3 else replace(inputs, mean=mean * 3, std=std * 3)
        resize, cut, *_ = cast(Any, eval_transform(one)).transforms
        transform.transforms[:1] = [resize, cut]  # the first is the random resized crop
    for step in transform.transforms:
        fix_posterize(step)
    return transform
