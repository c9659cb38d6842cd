"""How an image becomes a tensor for a model: its size, crop, interpolation and normalization.

This is the only place that knows. A model's own preparation is ``InputConfig.of_model(model)``; a run may replace parts of it
(``InputOverrides``); ``adapter.json`` holds the outcome, and all later use of the adapter prepares images by it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, get_args

from svp.bands import EachBand, per_channel
from svp.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

Picture: TypeAlias = "Image | tuple[Image, ...]"
"""An RGB image, or the bands of one with another number of channels than three."""

Transform: TypeAlias = "Callable[[Any], Tensor]"
"""Image, or its bands, to float tensor, (channels, height, width)."""

ValueRange: TypeAlias = "tuple[float, float] | Literal['file', 'type']"
"""What becomes black and what becomes white, of images with more than 8 bits per sample.

Two numbers hold for all images; "file" takes them from the bits that each file uses, "type" from the type of its samples, as
svp 0.1.0 did."""

CropMode = Literal["center", "squash", "border"]
_INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class InputConfig:
    """How images are prepared for a model in evaluation; part of every saved adapter.

    Attributes:
        img_size: Height and width in pixels.
        mean: Mean per channel, of values in 0..1; as many as the model takes channels.
        std: Standard deviation per channel, of values in 0..1.
        crop_pct: Share of the resized image that evaluation keeps, per side, above 0 up to 1.
        crop_mode: "center" resizes the short side and cuts the rest off, "squash" resizes both sides, "border" resizes
            the long side and pads the short one.
        interpolation: Filter of the resize in evaluation.
        value_range: Values that become black and white in images with more than 8 bits per sample: two numbers, "file" or
            "type", see `ValueRange`.
    Raises:
        TypeError, InputError: A field does not fit; names it.
    """

    img_size: int = 224
    mean: tuple[float, ...] = _IMAGENET_MEAN
    std: tuple[float, ...] = _IMAGENET_STD
    crop_pct: float = 0.875
    crop_mode: CropMode = "center"
    interpolation: str = "bicubic"
    value_range: ValueRange = "file"

    def __post_init__(self) -> None:
        if type(self.img_size) is not int:
            raise TypeError(f"img_size (={self.img_size!r}) must be an int")
        if self.img_size < 1:
            raise InputError(f"img_size (={self.img_size}) must be at least 1")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if not values or not all(_is_number(value) and math.isfinite(value) for value in values):
                raise InputError(f"{name} (={values}) must be finite numbers, one per channel")
        if len(self.mean) != len(self.std):
            raise InputError(f"mean (={self.mean}) and std (={self.std}) must be of as many channels")
        if min(self.std) <= 0:
            raise InputError(f"std (={self.std}) must be positive")
        if not _is_number(self.crop_pct):
            raise TypeError(f"crop_pct (={self.crop_pct!r}) must be a number")
        if not 0 < self.crop_pct <= 1:
            raise InputError(f"crop_pct (={self.crop_pct}) must be above 0 and at most 1")
        check_choice("crop_mode", self.crop_mode, get_args(CropMode))
        check_choice("interpolation", self.interpolation, _INTERPOLATIONS)
        if isinstance(self.value_range, str):
            check_choice("value_range", self.value_range, ("file", "type"))
        else:
            _check_range(self.value_range)

    @classmethod
    def of_model(cls, model: Any) -> InputConfig:
        """The preparation that a model of ``svp.create_model`` was trained with, at the model's image size.

        For another number of channels than three, mean and std are those that `svp.bands.per_channel` makes of the model's.

        Raises:
            InputError: The model takes images that are not square.
        """
        height, width = model.patch_embed.img_size
        if height != width:
            raise InputError(f"the model takes images of {height} x {width} pixels, only square ones can be prepared")
        cfg = model.pretrained_cfg
        names = ("mean", "std", "crop_pct", "crop_mode", "interpolation")
        own = cls.from_dict({"img_size": height} | {name: cfg[name] for name in names if cfg.get(name)})
        return own.of_channels(getattr(model, "in_chans", 3))

    def of_channels(self, channels: int) -> InputConfig:
        """The same for another number of channels, see `svp.bands.per_channel`."""
        if channels == self.channels:
            return self
        return replace(self, mean=per_channel(self.mean, channels), std=per_channel(self.std, channels))

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return len(self.mean)

    @property
    def resized(self) -> int:
        """Side in pixels that evaluation resizes to before it crops to `img_size`."""
        return math.floor(self.img_size / self.crop_pct)

    @property
    def of_each_band(self) -> list[tuple[tuple[float], tuple[float]]]:
        """Mean and standard deviation of each channel."""
        return [((mean,), (std,)) for mean, std in zip(self.mean, self.std, strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """The fields as values that JSON and YAML can hold."""
        return asdict(self) | {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> InputConfig:
        """The inverse of `to_dict`; absent fields keep their default.

        Raises:
            InputError: A field is unknown, or has a value or type that does not fit.
        """
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                raise InputError(f"inputs: {name} is unknown; known: {', '.join(known)}")
        try:
            lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list | tuple)}
            return cls(**{**values, **lists})
        except (TypeError, InputError) as error:
            raise InputError(f"inputs: {error}") from error


@dataclass(frozen=True)
class InputOverrides:
    """Replaces parts of the model's own preparation of images, in training and in every later use of the adapter.

    Attributes:
        normalization: Mean and standard deviation per channel: "model", the model's own; "imagenet", those of ImageNet;
            "none", pixels stay in 0..1. Published VTAB-1K numbers differ by it.
        crop_pct: Share of the resized image that evaluation keeps, per side, above 0 up to 1; the model's own if left out.
        crop_mode: "center" resizes the short side and cuts the rest off, "squash" resizes both sides, "border" resizes the
            long side and pads the short one; the model's own if left out.
        interpolation: Filter of the resize in evaluation; the model's own if left out.
        value_range: The two values that become black and white in images with more than 8 bits per sample; taken from the
            images of the run if left out.
    Raises:
        InputError: A field does not fit; names it.
    """

    normalization: Literal["model", "imagenet", "none"] = "model"
    crop_pct: float | None = None
    crop_mode: CropMode | None = None
    interpolation: str | None = None
    value_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.value_range, list):
            object.__setattr__(self, "value_range", tuple(self.value_range))
        check_choice("normalization", self.normalization, ("model", "imagenet", "none"))
        self.applied(InputConfig())

    def applied(self, own: InputConfig) -> InputConfig:
        """The preparation of images, given the model's own."""
        kept = ("crop_pct", "crop_mode", "interpolation", "value_range")
        changes: dict[str, Any] = {name: value for name in kept if (value := getattr(self, name)) is not None}
        if self.normalization == "imagenet":
            changes |= {name: per_channel(v, own.channels) for name, v in (("mean", _IMAGENET_MEAN), ("std", _IMAGENET_STD))}
        elif self.normalization == "none":
            changes |= {"mean": (0.0,) * own.channels, "std": (1.0,) * own.channels}
        return replace(own, **changes)

    def resolved(self, own: InputConfig) -> InputOverrides:
        """The same with nothing of the geometry left to the model."""
        inputs = self.applied(own)
        return replace(self, crop_pct=inputs.crop_pct, crop_mode=inputs.crop_mode, interpolation=inputs.interpolation)


def eval_transform(inputs: InputConfig) -> Transform:
    """Resize to `InputConfig.resized`, central crop to `img_size`, normalization; images of any shape take little memory."""
    if inputs.channels != 3:
        return EachBand([_eval_steps(inputs, mean, std) for mean, std in inputs.of_each_band])
    return _eval_steps(inputs, inputs.mean, inputs.std)


def _eval_steps(inputs: InputConfig, mean: tuple[float, ...], std: tuple[float, ...]) -> Transform:
    from timm.data.transforms_factory import create_transform

    from svp.resizing import BorderResize, CentralResize

    transform: Any = create_transform(
        inputs.img_size,
        interpolation=inputs.interpolation,
        crop_pct=inputs.crop_pct,
        crop_mode=inputs.crop_mode,
        mean=mean,
        std=std,
    )
    if inputs.crop_mode == "center":
        filtered_by = transform.transforms[0].interpolation
        transform.transforms[0] = CentralResize(inputs.resized, inputs.img_size, filtered_by)
    elif inputs.crop_mode == "border":
        transform.transforms[0] = BorderResize(inputs.resized, interpolation=inputs.interpolation, longest=1.0)
    return cast("Transform", transform)


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise InputError unless `value` is one of `choices`."""
    if value not in choices:
        raise InputError(f"{name} (={value!r}) must be one of {', '.join(choices)}")


def _check_range(values: object) -> None:
    if not (isinstance(values, tuple) and len(values) == 2 and all(_is_number(v) and math.isfinite(v) for v in values)):
        raise InputError(f"value_range (={values!r}) must be two finite numbers, those that become black and white")
    if values[0] >= values[1]:
        raise InputError(f"value_range (={values!r}): the first number must be below the second")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
