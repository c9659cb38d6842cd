"""ProDiaL: both projections of every mixer are transformed by a matrix near the identity, and updated at low rank.

    W' = s * W D_b + B A                 W (outputs, inputs) of in_proj and of out_proj

D_b (inputs, inputs) consists of square blocks on the diagonal, `block_size` wide; s is a factor per output; B (outputs, rank)
and A (rank, inputs) make up for what lies off the diagonal. D_b starts at the identity, s at one and B at zero, so training
starts at the plain backbone. ``merge`` is exact: the backbone gets W'. In training the map runs with W', too.

What trains: the blocks of D_b, s, A, B and the head. Without head, with d = embed_dim, E = d_inner, L = depth, m = block_size
and r = rank:  L (m (d + E) + (2 E + d) + r (d + 2 E + E + d));  857,088 for Vim-S with the defaults.

Source: Ham et al., "Parameter Efficient Mamba Tuning via Projector-targeted Diagonal-centric Linear Transformation", CVPR
2025, arXiv:2411.15224. Our choice are the sizes, that s is one value per output, and PEFT's start of A.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from svp.errors import InputError
from svp.models.effective_weight import Weights, effective_weight
from svp.models.mixer import without_autocast
from svp.ops import linear
from svp.tuners.attachment import Attachment
from svp.tuners.method import Method, register_method


@register_method("prodial", title="ProDiaL")
@dataclass(frozen=True)
class ProDiaL(Method):
    """A ``DiagonalCentric`` stands in the place of every `in_proj` and `out_proj`.

    Args:
        block_size: Width of the blocks of D_b; divides the width of the tokens.
        rank: Rank of B A.
    """

    default_lr = 1e-2
    default_weight_decay = 1e-4
    mergeable = True
    widths = ("rank",)

    block_size: int = 8
    rank: int = 8

    def __post_init__(self) -> None:
        for name in ("block_size", "rank"):
            if getattr(self, name) < 1:
                raise InputError(f"prodial: {name} is {getattr(self, name)}, expected 1 or more")

    def attach(self, site: Attachment) -> Iterable[str]:
        width = site.model.embed_dim
        if width % self.block_size:
            raise InputError(f"prodial: block_size is {self.block_size}, expected a divisor of the tokens' width {width}")
        wrappers = {}
        for path in _paths(site.model):
            layer = site.model.get_submodule(path)
            reason = "is wrapped by another method" if not isinstance(layer, nn.Linear) else effective_weight(layer)
            if isinstance(reason, str):
                raise InputError(f"prodial transforms a weight, and model.{path} {reason}; attach prodial first")
            wrappers[path] = DiagonalCentric(layer, self.block_size, self.rank)
        return [name for path, wrapper in wrappers.items() for name in site.wrap(path, wrapper)]

    @torch.no_grad()
    def bake(self, model: Any) -> None:
        for path in _paths(model):
            wrapper = model.get_submodule(path)
            wrapper.base_layer.weight.copy_(wrapper.transformed(wrapper.base_layer.weight))


class DiagonalCentric(nn.Module):
    """A linear map of the weight s * W D_b + B A, (..., inputs) -> (..., outputs).

    Attributes:
        blocks: What the blocks of D_b are more than the identity, (inputs / block_size, block_size, block_size).
        scale: s, (outputs,).
        down: A, (rank, inputs).
        up: B, (outputs, rank).
    """

    def __init__(self, base_layer: nn.Linear, block_size: int, rank: int) -> None:
        super().__init__()
        self.base_layer = base_layer
        weight = base_layer.weight.detach()
        outputs, inputs = weight.shape
        self.blocks = nn.Parameter(weight.new_zeros(inputs // block_size, block_size, block_size))
        self.scale = nn.Parameter(weight.new_ones(outputs))
        self.down = nn.Parameter(weight.new_empty(rank, inputs))
        self.up = nn.Parameter(weight.new_zeros(outputs, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, u: Tensor) -> Tensor:
        weights = self.effective_weight()
        if isinstance(weights, str):
            raise InputError(f"prodial transforms a weight, and a projection below it {weights}")
        return linear(u, *weights)

    def effective_weight(self) -> Weights | str:
        """Weight and bias of the one map that this is."""
        base = effective_weight(self.base_layer)
        return base if isinstance(base, str) else (self.transformed(base[0]), base[1])

    def transformed(self, weight: Tensor) -> Tensor:
        """s * W D_b + B A"""
        with without_autocast(weight.device.type):
            count, size, _ = self.blocks.shape
            by_block = weight.reshape(len(weight), count, size).transpose(0, 1)  # (count, outputs, size)
            turned = (by_block @ self.blocks).transpose(0, 1).flatten(1)
            return self.scale.unsqueeze(1) * (weight + turned) + self.up @ self.down


def _paths(model: Any) -> list[str]:
    return [f"layers.{layer}.mixer.{name}" for layer in range(len(model.layers)) for name in ("in_proj", "out_proj")]
