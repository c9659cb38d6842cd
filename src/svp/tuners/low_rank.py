"""A linear map or a convolution of patches under a low-rank update, with a magnitude of its own or without.

    LoRA    y = (W + s B A) u + b                                s = alpha / rank
    DoRA    y = m / |W + s B A| (W + s B A) u + b                m, |.|: per output; the gradient takes |.| for a constant

Names and start of the parameters are those of PEFT: A as Kaiming uniform with a = sqrt(5), B zero, m = |W|.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from svp.models.effective_weight import Weights, effective_weight
from svp.models.mixer import without_autocast


class Magnitude(nn.Module):
    """The length of every output's weight, ``weight``."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)


class LowRankUpdate(nn.Module):
    """An ``nn.Linear`` or ``nn.Conv2d`` with a low-rank update.

    Args:
        base_layer: The map.
        rank: Rank of the update.
        alpha: The update is weighted by alpha / rank.
        dropout: Dropout in front of A, 0 <= dropout < 1.
        magnitude: Scale every row of the updated weight to a length that trains (DoRA).
    """

    def __init__(
        self, base_layer: nn.Linear | nn.Conv2d, rank: int, alpha: float, dropout: float = 0.0, magnitude: bool = False
    ) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.scale = alpha / rank
        down: nn.Linear | nn.Conv2d
        up: nn.Linear | nn.Conv2d
        # made on the CPU in float32 and initialized twice, as PEFT does: the same seed gives the same start
        if isinstance(base_layer, nn.Conv2d):
            sizes: Any = dict(kernel_size=base_layer.kernel_size, stride=base_layer.stride, padding=base_layer.padding)
            down = nn.Conv2d(base_layer.in_channels, rank, bias=False, **sizes)
            up = nn.Conv2d(rank, base_layer.out_channels, 1, bias=False)
        else:
            down = nn.Linear(base_layer.in_features, rank, bias=False)
            up = nn.Linear(rank, base_layer.out_features, bias=False)
        nn.init.kaiming_uniform_(down.weight, a=math.sqrt(5))
        nn.init.zeros_(up.weight)
        self.dropout = nn.Dropout(dropout)
        self.lora_A, self.lora_B = nn.ModuleDict({"default": down}), nn.ModuleDict({"default": up})
        like = base_layer.weight
        self.to(like.device, like.dtype)
        self.lora_magnitude_vector = nn.ModuleDict()
        if magnitude:
            length = _length(self._base()[0])
            self.lora_magnitude_vector["default"] = Magnitude(length.view(1, -1, 1, 1) if like.ndim == 4 else length)

    def forward(self, u: Tensor) -> Tensor:
        y = self.base_layer(u)
        dropped = self.dropout(u)
        update = self.lora_B["default"](self.lora_A["default"](dropped)) * self.scale
        if not self.lora_magnitude_vector:
            return (y + update).to(y.dtype)
        axis = 1 if isinstance(self.base_layer, nn.Conv2d) else -1
        weight, bias = self._base()
        gain = _per_channel(self._gain(weight + self._update()), axis)
        constant = None if bias is None else _per_channel(bias, axis)  # what the magnitude leaves alone
        if self.training and self.dropout.p:  # both parts of the update see the same input
            plain = self.base_layer(dropped)
            y = y + (gain - 1) * (plain if constant is None else plain - constant) + gain * update
        elif constant is None:
            y = gain * (y + update)
        else:
            y = gain * (y + update) + (1 - gain) * constant
        return y.to(u.dtype)

    @torch.no_grad()
    def merge(self) -> None:
        """Put the update into the map's weight."""
        self.base_layer.weight.copy_(self._changed(self.base_layer.weight))

    @property
    def weight(self) -> Tensor:
        """What the map's weight amounts to, without dropout."""
        return self._changed(self._base()[0])

    def effective_weight(self) -> Weights | str:
        """Weight and bias of the one map that this is; none where inputs of the update are dropped."""
        if self.training and self.dropout.p:
            return f"drops inputs of its update in training (dropout {self.dropout.p})"
        base = effective_weight(self.base_layer)  # of a map that another method has changed before, that
        return base if isinstance(base, str) else (self._changed(base[0]), base[1])

    def _base(self) -> Weights:
        """What the map below amounts to; its own weight where that cannot be said."""
        found = effective_weight(self.base_layer)
        return (self.base_layer.weight, self.base_layer.bias) if isinstance(found, str) else found

    def _changed(self, weight: Tensor) -> Tensor:
        """What a weight becomes, without dropout."""
        weight = weight + self._update()
        return _per_channel(self._gain(weight), 0, weight.ndim) * weight if self.lora_magnitude_vector else weight

    def _update(self) -> Tensor:
        down, up = self.get_parameter("lora_A.default.weight"), self.get_parameter("lora_B.default.weight")
        with without_autocast(up.device.type):  # next to the weight, an update in bfloat16 would move in steps of 0.4 %
            return self.scale * (up.flatten(1) @ down.flatten(1)).view_as(self.base_layer.weight)

    def _gain(self, weight: Tensor) -> Tensor:
        """m / |W + s B A|, (outputs,), of the updated weight."""
        magnitude: Any = self.lora_magnitude_vector["default"].weight
        return magnitude.flatten() / _length(weight)


@torch.no_grad()
def _length(weight: Tensor) -> Tensor:
    """Norm of every output's weights."""
    return torch.linalg.vector_norm(weight.flatten(1), dim=1)


def _per_channel(values: Tensor, axis: int, ndim: int = 4) -> Tensor:
    return values if axis == -1 else values.view([-1 if i == axis else 1 for i in range(ndim)])
