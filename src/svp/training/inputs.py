"""What replaces a model's own preparation of images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from svp.data.transforms import CropMode, InputConfig


@dataclass(frozen=True)
class InputOverrides:
    """Replaces parts of the model's own preparation of images, in training and in every later use of the adapter.

    Attributes:
        normalization: Mean and standard deviation per channel: "model", the model's own; "imagenet", those of ImageNet;
            "none", pixels stay in 0..1. Published VTAB-1K numbers differ by it.
        crop_pct: Share of the resized image that evaluation keeps, per side, above 0 up to 1; the model's own if left out.
        crop_mode: "center" resizes the short side and cuts the rest off, "squash" resizes both sides, "border" resizes the
            long side and pads the short one; the model's own if left out.
        interpolation: Of the resize in evaluation; the model's own if left out.
    Raises:
        ValueError: A field does not fit; names it.
    """

    normalization: Literal["model", "imagenet", "none"] = "model"
    crop_pct: float | None = None
    crop_mode: CropMode | None = None
    interpolation: str | None = None

    def __post_init__(self) -> None:
        if self.normalization not in ("model", "imagenet", "none"):
            raise ValueError(f"normalization (={self.normalization!r}) must be one of model, imagenet, none")
        InputConfig(**self._geometry())

    def applied(self, own: Mapping[str, Any]) -> InputConfig:
        """The preparation of images, given the model's own: the fields of ``InputConfig``."""
        inputs = replace(InputConfig.from_dict(own), **self._geometry())
        if self.normalization == "imagenet":
            return replace(inputs, mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD)
        if self.normalization == "none":
            return replace(inputs, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        return inputs

    def resolved(self, own: Mapping[str, Any]) -> InputOverrides:
        """The same with nothing of the geometry left to the model."""
        inputs = self.applied(own)
        return replace(self, crop_pct=inputs.crop_pct, crop_mode=inputs.crop_mode, interpolation=inputs.interpolation)

    def _geometry(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name != "normalization" and value is not None}
