"""SSF: every linear map, norm and convolution is scaled and shifted per channel.

    y <- y * scale + shift                  y: what the map gives, before any activation; scale starts at 1, shift at 0

In a Vim behind the patch embedding, every norm, in_proj, both convolutions (in front of their SiLU), x_proj, dt_proj and
out_proj; in a ViT behind the patch embedding, every norm, qkv, proj, fc1 and fc2. What trains: scale, shift and the head.
Without head, with d = embed_dim, E = d_inner, N = d_state, R = dt_rank, L = depth, twice the number of channels:
2 (2 d + L (2 d + 2 E + 2 (2 E + R + 2 N)));  264,960 for Vim-S.

``merge`` is exact: weight * scale, bias * scale + shift. Where the backbone had no bias, in the norms and projections of Vim,
the merged one has: the released state dicts lack those keys, ``svp.create_model(..., pretrained=FILE)`` takes them. In
training the fused kernels get the scaled weights and shifted biases.

Source: Lian et al., "Scaling & Shifting Your Features", NeurIPS 2022, arXiv:2210.08823 (there both start with a noise of 0.02;
here training starts at the plain backbone).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from svp.errors import InputError
from svp.models import VisionMamba
from svp.models.checkpoints import give_bias
from svp.models.effective_weight import Weights, effective_weight
from svp.models.mixer import CausalConv1d
from svp.tuners.attachment import Attachment, innermost
from svp.tuners.backbones import VIM_AND_VIT, anatomy
from svp.tuners.method import Method, register_method

_IN_MIXER = ("in_proj", "conv1d", "x_proj", "dt_proj", "conv1d_b", "x_proj_b", "dt_proj_b", "out_proj")
_IN_VIM_BLOCK = ("norm", *(f"mixer.{name}" for name in _IN_MIXER))
_IN_VIT_BLOCK = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")


@register_method("ssf", title="SSF")
@dataclass(frozen=True)
class SSF(Method):
    """Scale and shift behind every map; they are found at ``model.ssf``, below the path of their map in the model."""

    backbones = VIM_AND_VIT
    default_lr = 1e-2
    default_weight_decay = 1e-4
    mergeable = True

    def attach(self, site: Attachment) -> Iterable[str]:
        model, tree = site.model, nn.Module()
        for path in _paths(model):
            module: Any = model.get_submodule(path)
            base = innermost(module)
            scale_shift = _grow(tree, path, ScaleShift(base.weight))
            if not isinstance(base, CausalConv1d):
                site.hook(module.register_forward_hook(_OnOutput(scale_shift, 1 if isinstance(base, nn.Conv2d) else -1)))
            elif module is base:
                site.wrap(path, ScaledConv1d(base, scale_shift))
            else:
                raise InputError(f"ssf: another method wraps {path} already; name ssf first, as in 'ssf+...'")
        return site.add("ssf", tree)

    @torch.no_grad()
    def bake(self, model: Any) -> None:
        for path, scale_shift in model.ssf.named_modules():
            if isinstance(scale_shift, ScaleShift):
                base = innermost(model.get_submodule(path))
                weight, bias = scale_shift.on_weights(base.weight, give_bias(base))
                base.weight.copy_(weight)
                base.bias.copy_(bias)


class ScaleShift(nn.Module):
    """x * scale + shift per channel, in the dtype of x.

    Args:
        weight: That of the map it belongs to, the channels first.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.scale = nn.Parameter(weight.new_ones(len(weight)))
        self.shift = nn.Parameter(weight.new_zeros(len(weight)))

    def forward(self, x: Tensor, axis: int = -1) -> Tensor:
        # under autocast only the result is rounded: next to 1, a scale in bfloat16 would move in steps of 0.8 %
        return (x.movedim(axis, -1) * self.scale + self.shift).to(x.dtype).movedim(-1, axis)

    def on_weights(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """Weight and bias of the one map that gives the scaled and shifted."""
        shift = self.shift if bias is None else bias * self.scale + self.shift
        return (weight.movedim(0, -1) * self.scale).movedim(-1, 0), shift


class _OnOutput:
    """Forward hook of a module."""

    def __init__(self, scale_shift: ScaleShift, axis: int) -> None:
        self.scale_shift, self.axis = scale_shift, axis

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return self.scale_shift(output, self.axis)

    def on_weights(self, weight: Tensor, bias: Tensor | None) -> Weights:
        """What a map of these becomes, see ``svp.models.effective_weight``."""
        return self.scale_shift.on_weights(weight, bias)


class ScaledConv1d(nn.Module):
    """A convolution that is scaled and shifted in front of its activation: its output is too late."""

    def __init__(self, base_layer: CausalConv1d, scale_shift: ScaleShift) -> None:
        super().__init__()
        self.base_layer = base_layer
        self._held = (scale_shift,)  # no sub-module: it has its name at model.ssf

    def effective_weight(self) -> Weights | str:
        """Weight and bias of the one convolution that this is."""
        base = effective_weight(self.base_layer)
        return base if isinstance(base, str) else self._held[0].on_weights(*base)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self._held[0].on_weights(self.base_layer.weight, self.base_layer.bias)
        return functional_call(self.base_layer, {"weight": weight, "bias": bias}, (x,))


def _paths(model: Any) -> list[str]:
    """What is scaled and shifted."""
    parts, in_block = anatomy(model), _IN_VIM_BLOCK if isinstance(model, VisionMamba) else _IN_VIT_BLOCK
    in_blocks = [f"{parts.blocks}.{i}.{name}" for i in range(len(parts.blocks_of(model))) for name in in_block]
    paths = ["patch_embed.proj", *in_blocks, parts.final_norm]
    return [path for path in paths if not isinstance(model.get_submodule(path), nn.Identity)]  # a pruned model has no norm


def _grow(tree: nn.Module, path: str, leaf: ScaleShift) -> ScaleShift:
    """Put `leaf` into `tree` at `path`."""
    *branches, name = path.split(".")
    for branch in branches:
        if branch not in dict(tree.named_children()):
            tree.add_module(branch, nn.Module())
        tree = tree.get_submodule(branch)
    tree.add_module(name, leaf)
    return leaf
