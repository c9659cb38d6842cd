"""Low-rank updates of frozen linear maps: LoRA, DoRA and LoRAp, LoRA on a slice of a map's output.

    lora            y = W u + s B A u                         s = alpha / rank
    dora            y = m / |W + s B A| (W + s B A) u         m, |.|: per output; the gradient takes |.| for a constant
    lora_partial    y[slice] = (W u)[slice] + s B A u         every slice has A and B of its own

A (rank, inputs) starts random, B (outputs, rank) at zero and m at |W|, so training starts at the plain backbone. What trains:
A, B, m and the head. Without head that is rank (inputs + outputs) for a map or slice, with m `outputs` more. With
d = embed_dim, E = d_inner, N = d_state, R = dt_rank, L = depth, at the ranks of MambaPEFT:

    target_modules                      without head                Vim-S
    in_proj                             L rank (d + 2 E)            1,474,560 at rank 32
    x_proj, both directions             2 L rank (E + R + 2 N)      2,531,328 at rank 64
    dt_proj, both directions            2 L rank (R + E)            2,433,024 at rank 64
    out_proj                            L rank (E + d)              2,654,208 at rank 96
    patch_embed                         rank (3 patch_size^2 + d)      36,864 at rank 32
    slices
    x, z: of in_proj                    L rank (d + E)              1,769,472 at rank 64
    dt: of x_proj, both directions      2 L rank (E + R)            2,433,024 at rank 64
    B, C: of x_proj, both directions    2 L rank (E + N)            2,408,448 at rank 64

as its table has them (in thousands, with a head of about 9: 1,483, 2,540, 2,442, 2,663, 45; 1,778, 2,442, 2,417). In a ViT the
maps are timm's qkv, proj, fc1, fc2 and patch_embed; slices are those of a Vim.

Sources: Hu et al., "LoRA", ICLR 2022, arXiv:2106.09685; Liu et al., "DoRA", ICML 2024, arXiv:2402.09353; Yoshimura et al.,
"MambaPEFT", ICLR 2025, arXiv:2411.03855 (LoRAp; s 0.1, which is alpha 3.2 at rank 32); github.com/huggingface/peft.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svp.errors import InputError
from svp.models import VisionMamba
from svp.models.effective_weight import Weights, effective_weight
from svp.models.mixer import without_autocast
from svp.tuners.attachment import Attachment
from svp.tuners.backbones import VIM_AND_VIT, anatomy
from svp.tuners.low_rank import LowRankUpdate
from svp.tuners.method import Method, register_method

SLICES = ("x", "z", "dt", "B", "C")


@register_method("lora", title="LoRA")
@dataclass(frozen=True)
class LoRA(Method):
    """A ``LowRankUpdate`` stands in the place of every map.

    Args:
        target_modules: What is updated in every block: in_proj, x_proj, dt_proj, out_proj of a Vim (x_proj and dt_proj in both
            directions), qkv, proj, fc1, fc2 of a ViT; or patch_embed. Empty: in_proj, qkv.
        rank: Rank of the update.
        alpha: The update is weighed by alpha / rank.
        dropout: Dropout in front of A, 0 <= dropout < 1.
    """

    backbones = VIM_AND_VIT
    default_lr = 3e-3
    default_weight_decay = 1e-4
    mergeable = True
    widths = ("rank",)
    use_dora: ClassVar[bool] = False

    target_modules: list[str] = field(default_factory=list)
    rank: int = 32
    alpha: float = 32.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        _check_names("lora: target_modules", self.target_modules)
        _check_update("lora", self.rank, self.alpha, self.dropout)

    def attach(self, site: Attachment) -> Iterable[str]:
        wrappers = {}
        for path in self._paths(site.model):
            layer = _layer_at(path, site)
            if self.use_dora and isinstance(reason := effective_weight(layer), str):
                raise InputError(f"dora takes the norm of a weight, and model.{path} {reason}; attach dora first")
            wrappers[path] = LowRankUpdate(layer, self.rank, self.alpha, self.dropout, self.use_dora)
        return [name for path, wrapper in wrappers.items() for name in site.wrap(path, wrapper)]

    def bake(self, model: Any) -> None:
        for path in self._paths(model):
            model.get_submodule(path).merge()

    def _paths(self, model: Any) -> list[str]:
        """Where the target modules are in `model`."""
        parts = anatomy(model)
        known, paths = [*parts.linears, "patch_embed"], []
        for name in self.target_modules or [parts.projection]:
            if name not in known:
                kind = type(model).__name__
                raise InputError(f"{self.name}: target_modules has {name!r}; known in a {kind}: {', '.join(known)}")
            if name == "patch_embed":
                paths.append("patch_embed.proj")
            else:
                depth = len(parts.blocks_of(model))
                paths += [f"{parts.blocks}.{layer}.{linear}" for layer in range(depth) for linear in parts.linears[name]]
        return paths


@register_method("lora_partial", title="partial LoRA")
@dataclass(frozen=True)
class LoRAPartial(Method):
    """``LowRankSlices`` stand in the place of the projections.

    Args:
        slices: What is updated in every block: x, z (of in_proj), dt, B, C (of x_proj, in both directions).
        rank: Rank of each update.
        alpha: The updates are weighed by alpha / rank.
        dropout: Dropout in front of A, 0 <= dropout < 1.
    """

    default_lr = 3e-3
    default_weight_decay = 1e-4
    mergeable = True
    widths = ("rank",)

    slices: list[str] = field(default_factory=lambda: ["x"])
    rank: int = 64
    alpha: float = 64.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        _check_names("lora_partial: slices", self.slices)
        if not self.slices or not set(self.slices) <= set(SLICES):
            raise InputError(f"lora_partial: slices is {self.slices}, expected one or several of {', '.join(SLICES)}")
        _check_update("lora_partial", self.rank, self.alpha, self.dropout)

    def attach(self, site: Attachment) -> Iterable[str]:
        slices = self._slices(site.model)
        wrappers = {path: LowRankSlices(_layer_at(path, site), parts, self) for path, parts in slices.items()}
        return [name for path, wrapper in wrappers.items() for name in site.wrap(path, wrapper)]

    def bake(self, model: Any) -> None:
        for path in self._slices(model):
            model.get_submodule(path).merge()

    def _slices(self, model: VisionMamba) -> dict[str, dict[str, slice]]:
        """The chosen slices by name, for every projection that has any."""
        linears, found = anatomy(model).linears, {}
        for layer, block in enumerate(model.layers):
            mixer: Any = block.mixer
            widths = {
                "in_proj": {"x": mixer.d_inner, "z": mixer.d_inner},
                "x_proj": {"dt": mixer.dt_rank, "B": mixer.d_state, "C": mixer.d_state},
            }
            for projection, parts in widths.items():
                ends = zip(parts, accumulate(parts.values()), strict=True)
                chosen = {name: slice(end - parts[name], end) for name, end in ends if name in self.slices}
                found.update({f"layers.{layer}.{linear}": chosen for linear in linears[projection] if chosen})
        return found


def _check_names(option: str, names: Sequence[str]) -> None:
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{option} is {names!r}, expected a list of names")
    if len(set(names)) < len(names):
        raise InputError(f"{option} lists a name more than once: {', '.join(names)}")


def _check_update(method: str, rank: int, alpha: float, dropout: float) -> None:
    if rank < 1:
        raise InputError(f"{method}: rank is {rank}, expected 1 or more")
    if alpha == 0 or not math.isfinite(alpha):
        raise InputError(f"{method}: alpha is {alpha}, expected a number other than 0")
    if not 0 <= dropout < 1:
        raise InputError(f"{method}: dropout is {dropout}, expected 0 <= dropout < 1")


@register_method("dora", title="DoRA")
@dataclass(frozen=True)
class DoRA(LoRA):
    """A ``LowRankUpdate`` with magnitudes stands in the place of every map."""

    use_dora = True


class LowRankSlices(nn.Module):
    """A linear map with low-rank updates of slices of its output, (..., inputs) -> (..., outputs).

    Args:
        base_layer: The map.
        slices: What is updated of the output, by name.
        config: Rank, alpha and dropout.
    """

    def __init__(self, base_layer: nn.Linear, slices: dict[str, slice], config: LoRAPartial) -> None:
        super().__init__()
        like = base_layer.weight
        factory: dict[str, Any] = dict(bias=False, device=like.device, dtype=like.dtype)
        self.base_layer = base_layer
        self.slices = slices
        self.scale = config.alpha / config.rank
        self.dropout = nn.Dropout(config.dropout)
        self.lora_A, self.lora_B = nn.ModuleDict(), nn.ModuleDict()
        for name, part in slices.items():
            self.lora_A[name] = nn.Linear(base_layer.in_features, config.rank, **factory)  # PyTorch's start is PEFT's
            self.lora_B[name] = up = nn.Linear(config.rank, part.stop - part.start, **factory)
            nn.init.zeros_(up.weight)

    def forward(self, u: Tensor) -> Tensor:
        y = self.base_layer(u)
        u = self.dropout(u)
        for name, part in self.slices.items():
            update = self.scale * self.lora_B[name](self.lora_A[name](u))
            y = y + F.pad(update, (part.start, y.shape[-1] - part.stop))
        return y

    def effective_weight(self) -> Weights | str:
        """Weight and bias of the one map that this is; none where inputs of the updates are dropped."""
        if self.training and self.dropout.p:
            return f"drops inputs of its updates in training (dropout {self.dropout.p})"
        base = effective_weight(self.base_layer)
        if isinstance(base, str):
            return base
        weight, bias = base
        for name, part in self.slices.items():
            A, B = self.get_parameter(f"lora_A.{name}.weight"), self.get_parameter(f"lora_B.{name}.weight")
            with without_autocast(B.device.type):
                weight = weight + F.pad(self.scale * B @ A, (0, 0, part.start, len(weight) - part.stop))
        return weight, bias

    @torch.no_grad()
    def merge(self) -> None:
        """Add the updates to the map's weight."""
        for name, part in self.slices.items():
            A, B = self.get_parameter(f"lora_A.{name}.weight"), self.get_parameter(f"lora_B.{name}.weight")
            self.base_layer.weight[part] += self.scale * B @ A


def _layer_at(path: str, site: Attachment) -> Any:
    layer = site.model.get_submodule(path)
    if not isinstance(layer, nn.Linear | nn.Conv2d):
        raise InputError(f"the methods of {site.label!r} cannot be combined: two of them change model.{path}")
    return layer
