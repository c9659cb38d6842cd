"""The kinds of backbone that methods work on, and where in each of them they find what they attach to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from timm.models import VisionTransformer
from torch import nn

from svp.models import VisionMamba

VIM_AND_VIT: tuple[type[nn.Module], ...] = (VisionMamba, VisionTransformer)


@dataclass(frozen=True)
class Anatomy:
    """Names of the parts of a backbone.

    Args:
        blocks: The blocks, a sub-module of the model.
        mixed: What an adapter stands at, a sub-module of a block: the mixer of Vim, the MLP of ViT (as in AdaptFormer).
        final_norm: The norm behind the last block, a sub-module of the model.
        projection: The linear map that low-rank updates go to if nothing else is asked for.
        linears: Linear maps by name and where they are in a block: one sub-module, or one for each direction.
    """

    blocks: str
    mixed: str
    final_norm: str
    projection: str
    linears: dict[str, tuple[str, ...]]

    def blocks_of(self, model: Any) -> list[Any]:
        """The blocks in their order."""
        return list(model.get_submodule(self.blocks))


def anatomy(model: nn.Module) -> Anatomy:
    """Where things are in `model`, a Vim or a ViT."""
    return _VIM if isinstance(model, VisionMamba) else _VIT


_VIM = Anatomy(
    blocks="layers",
    mixed="mixer",
    final_norm="norm_f",
    projection="in_proj",
    linears={
        "in_proj": ("mixer.in_proj",),
        "x_proj": ("mixer.x_proj", "mixer.x_proj_b"),
        "dt_proj": ("mixer.dt_proj", "mixer.dt_proj_b"),
        "out_proj": ("mixer.out_proj",),
    },
)
_VIT = Anatomy(
    blocks="blocks",
    mixed="mlp",
    final_norm="norm",
    projection="qkv",
    linears={"qkv": ("attn.qkv",), "proj": ("attn.proj",), "fc1": ("mlp.fc1",), "fc2": ("mlp.fc2",)},
)
