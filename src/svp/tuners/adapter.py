"""Adapter: a small bottleneck beside or behind the mixer of every block.

    parallel      mixer(u) + scale * up(drop(ReLU(down(u))))          u: the normalized tokens that the mixer gets
    sequential    y + scale * up(drop(ReLU(down(y)))),  y = mixer(u)

`up` starts at zero, so training starts at the plain backbone. What trains: down, up and the head. Without head, with
d = embed_dim, L = depth, r = hidden_dim:  L (2 d r + r + d);  1,190,400 for Vim-S with the defaults.

Sources: Chen et al., "AdaptFormer", NeurIPS 2022, arXiv:2205.13535 (parallel; r 64, scale 0.1, ReLU, Kaiming uniform `down`,
there beside the MLP of a ViT block); Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", ICML 2019,
arXiv:1902.00751 (sequential). Vim's blocks have one sub-layer, the mixer; in a ViT the MLP stands in its place.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from svp.errors import InputError
from svp.tuners.attachment import Attachment
from svp.tuners.backbones import VIM_AND_VIT, anatomy
from svp.tuners.method import Method, register_method


@register_method("adapter")
@dataclass(frozen=True)
class Adapter(Method):
    """A bottleneck at the mixer (of a ViT, the MLP) of every block; they are found at ``model.adapters``.

    Args:
        hidden_dim: Width of the bottleneck.
        position: "parallel", beside the mixer; "sequential", behind it.
        scale: Weight of the adapter's output; not trained.
        dropout: Dropout in the bottleneck, 0 <= dropout < 1.
    """

    backbones = VIM_AND_VIT
    default_lr = 5e-3
    default_weight_decay = 1e-4
    widths = ("hidden_dim",)

    hidden_dim: int = 64
    position: Literal["parallel", "sequential"] = "parallel"
    scale: float = 0.1
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.hidden_dim < 1:
            raise InputError(f"adapter: hidden_dim is {self.hidden_dim}, expected 1 or more")
        if self.position not in ("parallel", "sequential"):
            raise InputError(f"adapter: position is {self.position!r}, expected 'parallel' or 'sequential'")
        if self.scale == 0 or not math.isfinite(self.scale):
            raise InputError(f"adapter: scale is {self.scale}, expected a number other than 0")
        if not 0 <= self.dropout < 1:
            raise InputError(f"adapter: dropout is {self.dropout}, expected 0 <= dropout < 1")

    def attach(self, site: Attachment) -> Iterable[str]:
        model, config, parts = site.model, self, anatomy(site.model)
        like = model.patch_embed.proj.weight
        blocks = parts.blocks_of(model)
        bottlenecks = [Bottleneck(model.embed_dim, config, like) for _ in blocks]
        for block, bottleneck in zip(blocks, bottlenecks, strict=True):
            hook = _AddToOutput(bottleneck, config.position == "parallel")
            # in front of other hooks: input and output still have the same tokens
            site.hook(block.get_submodule(parts.mixed).register_forward_hook(hook, prepend=True))
        return site.add("adapters", nn.ModuleList(bottlenecks))


class Bottleneck(nn.Module):
    """scale * up(drop(ReLU(down(x)))), (batch, length, embed_dim) -> the same."""

    def __init__(self, embed_dim: int, config: Adapter, like: Tensor) -> None:
        super().__init__()
        factory: dict[str, Any] = dict(device=like.device, dtype=like.dtype)
        self.down = nn.Linear(embed_dim, config.hidden_dim, **factory)
        self.dropout = nn.Dropout(config.dropout)
        self.up = nn.Linear(config.hidden_dim, embed_dim, **factory)
        self.scale = config.scale
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.up(self.dropout(F.relu(self.down(x))))


class _AddToOutput:
    """Forward hook of a module: adds what the bottleneck makes of the module's input, or of its output."""

    def __init__(self, bottleneck: Bottleneck, parallel: bool) -> None:
        self.bottleneck, self.parallel = bottleneck, parallel

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + self.bottleneck(args[0] if self.parallel else output)
