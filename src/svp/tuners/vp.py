"""Visual prompt in pixel space (VP): a learned frame is added to every image.

    images <- images + frame          the frame is `width` pixels wide and zero inside

The frame starts at zero (at random in the source), so training starts at the plain backbone. What trains: the frame and the
head. Without head, with C channels, H x W pixels and width w:  2 C w (H + W - 2 w);  69,840 for 224 pixels and
the default of 30.

Source: Bahng et al., "Exploring Visual Prompts for Adapting Large-Scale Models", 2022, arXiv:2203.17274 (there "padding" of 30
pixels).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from svp.errors import InputError
from svp.tuners.attachment import Attachment
from svp.tuners.backbones import VIM_AND_VIT
from svp.tuners.method import Method, register_method


@register_method("vp", title="VP")
@dataclass(frozen=True)
class VP(Method):
    """A learned frame around every image; it is found at ``model.vp``.

    Args:
        width: Pixels of the frame on every side, at least one and less than half the image; if None 30 of 224, in proportion.
    """

    backbones = VIM_AND_VIT
    default_lr = 1e-2
    default_weight_decay = 0.0

    width: int | None = None

    def __post_init__(self) -> None:
        if self.width is not None and self.width < 1:
            raise InputError(f"vp: width is {self.width}, expected 1 or more")

    def attach(self, site: Attachment) -> Iterable[str]:
        frame = Frame(self.name, site.model, self.width)
        site.hook(site.model.patch_embed.register_forward_pre_hook(_FrameImages(frame)))
        return site.add("vp", frame)


class Frame(nn.Module):
    """Adds four learned strips to images (batch, channels, height, width), which must have the size it was made for.

    Args:
        method: Name of the method, for messages.
        model: The model whose images they are.
        border: Width of the strips; if None 30 of 224 pixels, in proportion.
        several: Leading dimensions of the strips: one frame if empty.

    Raises:
        InputError: The strips leave nothing of the image free.
    """

    def __init__(self, method: str, model: Any, border: int | None, several: tuple[int, ...] = ()) -> None:
        super().__init__()
        like = model.patch_embed.proj.weight
        height, width = model.patch_embed.img_size
        side = min(height, width)
        border = border if border is not None else max(1, round(side * 30 / 224))
        if 2 * border >= side:
            raise InputError(f"{method}: width is {border}, expected less than half of the image's {side} pixels")

        def zeros(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(*several, like.shape[1], *shape, device=like.device, dtype=like.dtype))

        self.method, self.size = method, (height, width)
        self.top, self.bottom = zeros(border, width), zeros(border, width)
        self.left, self.right = zeros(height - 2 * border, border), zeros(height - 2 * border, border)

    def forward(self, images: Tensor, chosen: Tensor | None = None) -> Tensor:
        """The images in their frames; in the frame `chosen` for each, (batch,), if there are several."""
        if tuple(images.shape[-2:]) != self.size:
            raise InputError(
                f"{self.method}: the frame is for {self.size[0]} x {self.size[1]} pixels, the images have "
                f"{images.shape[-2]} x {images.shape[-1]}; call set_input_size before svp.tune"
            )
        inside = self.left.new_zeros(*self.left.shape[:-1], self.size[1] - 2 * self.left.shape[-1])
        middle = torch.cat([self.left, inside, self.right], dim=-1)
        frame = torch.cat([self.top, middle, self.bottom], dim=-2)
        return images + (frame if chosen is None else frame[chosen])


class _FrameImages:
    """Forward pre-hook of the patch embedding."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        images, *rest = args
        return (self.frame(images), *rest)
