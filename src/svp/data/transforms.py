"""Images to normalised tensors, for training and for evaluation: timm's pipelines behind two checked configurations."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, cast, get_args

from PIL import Image
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torchvision.transforms import Compose

from svp.data.policies import mend

Transform = Callable[[Image.Image], Tensor]
"""RGB image to float tensor, (3, height, width)."""

CropMode = Literal["center", "squash", "border"]
TrainCrop = Literal["random", "none"]
_INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
_TRAIN_INTERPOLATIONS = ("random", "bicubic", "bilinear")

# timm skips sections that it does not know, so they are checked here: policy, then sections in any order.
_POLICIES = (
    r"rand(-(m\d+|n\d+|p(0?\.\d+|[01])|mstd\d+(\.\d+)?|mmax\d+|inc[01]|t(weights|3aw?)))*",
    r"(original|originalr|v0|v0r|3a)(-mstd\d+(\.\d+)?)?",
    r"augmix(-(m\d+|w\d+|d\d+|b[01]|mstd\d+(\.\d+)?))*",
)


@dataclass(frozen=True)
class InputConfig:
    """What a model is fed with; part of every saved adapter.

    Attributes:
        img_size: Height and width in pixels.
        mean: Per channel, of values in 0..1.
        std: Per channel, of values in 0..1.
        crop_pct: Share of the resized image that evaluation keeps, per side, above 0 up to 1.
        crop_mode: "center" resizes the short side and cuts the rest off, "squash" resizes both sides, "border" resizes
            the long side and pads the short one.
        interpolation: Of the resize in evaluation.
    Raises:
        TypeError, ValueError: A field does not fit; names it.
    """

    img_size: int = 224
    mean: tuple[float, float, float] = IMAGENET_DEFAULT_MEAN
    std: tuple[float, float, float] = IMAGENET_DEFAULT_STD
    crop_pct: float = 0.875
    crop_mode: CropMode = "center"
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        if type(self.img_size) is not int:
            raise TypeError(f"img_size (={self.img_size!r}) must be an int")
        if self.img_size < 1:
            raise ValueError(f"img_size (={self.img_size}) must be at least 1")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != 3 or not all(math.isfinite(value) for value in values):
                raise ValueError(f"{name} (={values}) must be three finite numbers, one per channel")
        if min(self.std) <= 0:
            raise ValueError(f"std (={self.std}) must be positive")
        if not 0 < self.crop_pct <= 1:
            raise ValueError(f"crop_pct (={self.crop_pct}) must be above 0 and at most 1")
        _check_choice("crop_mode", self.crop_mode, get_args(CropMode))
        _check_choice("interpolation", self.interpolation, _INTERPOLATIONS)

    def to_dict(self) -> dict[str, Any]:
        """The fields as values that JSON and YAML can hold."""
        return asdict(self) | {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "InputConfig":
        """The inverse of `to_dict`; absent fields keep their default.

        Raises:
            ValueError: A field is unknown or does not fit.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(values.keys() - set(known))
        if unknown:
            raise ValueError(f"unknown field {', '.join(unknown)} of InputConfig; known are {', '.join(known)}")
        tuples = {name: tuple(values[name]) for name in ("mean", "std") if name in values}
        return cls(**{**values, **tuples})


@dataclass(frozen=True)
class AugmentConfig:
    """How training images are varied, in the order of the fields.

    Attributes:
        crop: "random", a random resized crop; "none", resized and cut as in evaluation (neither of the next two matters then).
        scale_min: Smallest share of the image area that the random resized crop takes, above 0 up to 1.
        train_interpolation: Of that crop: "bicubic", "bilinear", or "random" for either per image.
        hflip: Probability of a flip left to right; 0 where the side matters, as for digits.
        vflip: Probability of a flip upside down.
        auto_augment: A policy of timm: RandAugment ("rand-m6-mstd0.5-inc1": magnitude 6 of 10, varied by 0.5, stronger
            with magnitude), AutoAugment ("original", "v0", ...), "3a" or AugMix ("augmix-m3"); None for none.
        color_jitter: Largest relative change of brightness, contrast and saturation. As in timm it has no effect beside
            an auto_augment policy, other than the 3a ones.
        random_erasing: Probability that a rectangle is filled with noise, after normalisation.
    Raises:
        ValueError: A field does not fit; names it.
    """

    crop: TrainCrop = "random"
    scale_min: float = 0.35
    train_interpolation: str = "bicubic"
    hflip: float = 0.5
    vflip: float = 0.0
    auto_augment: str | None = "rand-m6-mstd0.5-inc1"
    color_jitter: float = 0.3
    random_erasing: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.scale_min <= 1:
            raise ValueError(f"scale_min (={self.scale_min}) must be above 0 and at most 1")
        for name in ("hflip", "vflip", "random_erasing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} (={getattr(self, name)}) must be a probability, 0 to 1")
        if not 0 <= self.color_jitter < math.inf:
            raise ValueError(f"color_jitter (={self.color_jitter}) must be 0 or more")
        _check_choice("crop", self.crop, get_args(TrainCrop))
        _check_choice("train_interpolation", self.train_interpolation, _TRAIN_INTERPOLATIONS)
        policy = self.auto_augment
        if policy is not None and not any(re.fullmatch(pattern, policy) for pattern in _POLICIES):
            raise ValueError(
                f"auto_augment (={policy!r}) is no policy of timm; examples are 'rand-m9-mstd0.5-inc1', 'original', "
                "'3a', 'augmix-m3' and None"
            )


def train_transform(inputs: InputConfig, augment: AugmentConfig) -> Transform:
    """Random resized crop or that of evaluation, flips, policy or colour jitter, normalisation, random erasing.

    Draws from the generators of random, numpy and torch (CPU).
    """
    transform: Compose = create_transform(
        inputs.img_size,
        is_training=True,
        scale=(augment.scale_min, 1.0),
        interpolation=augment.train_interpolation,
        hflip=augment.hflip,
        vflip=augment.vflip,
        auto_augment=augment.auto_augment,
        color_jitter=augment.color_jitter,
        mean=inputs.mean,
        std=inputs.std,
        re_prob=augment.random_erasing,
        re_mode="pixel",
        re_count=1,
    )
    if augment.crop == "none":
        resize, cut, *_ = cast(Any, eval_transform(inputs)).transforms
        transform.transforms[:1] = [resize, cut]  # the first is the random resized crop
    for step in transform.transforms:
        mend(step)
    return transform


def eval_transform(inputs: InputConfig) -> Transform:
    """Resize to floor(img_size / crop_pct), central crop to img_size, normalisation."""
    transform: Transform = create_transform(
        inputs.img_size,
        interpolation=inputs.interpolation,
        crop_pct=inputs.crop_pct,
        crop_mode=inputs.crop_mode,
        mean=inputs.mean,
        std=inputs.std,
    )
    return transform


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} (={value!r}) must be one of {', '.join(choices)}")
