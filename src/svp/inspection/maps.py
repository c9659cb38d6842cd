"""From a record of gates to maps that are laid over the image."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from svp.data import InputConfig
from svp.errors import InputError
from svp.inspection.recording import Gates
from svp.models import VisionMamba

Array = npt.NDArray[np.float64]

Direction = Literal["both", "forward", "backward"]
"""Of the scans; "both" is the mean of the two."""


def image_maps(record: Gates, layer: int | None = None, direction: Direction = "both") -> dict[str, Array]:
    """Maps (rows, columns) of the only image: update gate, forget gate, and contribution as a share of all tokens' parts.

    Args:
        record: Gates of one image.
        layer: Layer, counted from 0; the mean of all if None.
        direction: Which scans.

    Raises:
        InputError: There is no such layer or direction.
    """
    depth = len(record.forward.update)
    if layer is not None and not 0 <= layer < depth:
        raise InputError(f"layer is {layer}, expected 0 to {depth - 1}")
    scans = {"both": (record.forward, record.backward), "forward": (record.forward,), "backward": (record.backward,)}
    if direction not in scans:
        raise InputError(f"direction is {direction!r}, expected {', '.join(scans)}")

    def mean(gate: str) -> Tensor:
        return torch.stack([getattr(scan, gate) for scan in scans[direction]]).mean(dim=0)

    parts = mean("contribution")
    values = {"update": mean("update"), "forget": mean("forget"), "contribution": parts / parts.sum(dim=-1, keepdim=True)}
    chosen = {gate: v[:, 0].mean(dim=0) if layer is None else v[layer, 0] for gate, v in values.items()}
    return {gate: record.image_map(v).cpu().double().numpy() for gate, v in chosen.items()}


def prompt_maps(record: Gates, layer: int | None = None) -> dict[str, Array]:
    """Maps (rows, columns) of the only image's prompts, of one layer or the mean of all; empty for a model without."""
    if (prompts := record.prompts) is None:
        return {}
    chosen = {name: v[:, 0].mean(dim=0) if layer is None else v[layer, 0] for name, v in prompts.tokens.items()}
    return {name: record.image_map(v).cpu().double().numpy() for name, v in chosen.items()}


def patch_extent(model: VisionMamba) -> tuple[float, float, float, float]:
    """Left, right, bottom and top edge of the patches in pixels, pixel centers at whole numbers."""
    (rows, columns), embed = model.patch_embed.grid_size, model.patch_embed
    (height, width), (down, across) = embed.patch_size, embed.stride
    left, top = (width - across) / 2 - 0.5, (height - down) / 2 - 0.5  # overlapping patches stand for their middle
    return left, left + columns * across, top + rows * down, top


def pixels(image: Tensor, inputs: InputConfig) -> Array:
    """An image as the model gets it, (height, width, 3), 0 to 1: its first three channels, or the first as gray."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (inputs.mean, inputs.std))
    shown = (image * std + mean).clamp(0, 1)
    shown = shown[:3] if len(shown) > 2 else shown[:1].expand(3, -1, -1)
    return shown.permute(1, 2, 0).double().numpy()
