"""What a Vim is made of beside its mixers: the norm, the block, the embedding of patches."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from timm.layers import DropPath, to_2tuple, trunc_normal_
from timm.models import (
    register_notrace_function,
    register_notrace_module,
)
from torch import Tensor, nn

from svp.errors import InputError
from svp.models.effective_weight import effective_weight, is_its_weight, touched
from svp.models.mixer import BidirectionalMamba, is_autocast_enabled
from svp.ops import Prompts, add_prompts, add_rms_norm, conv2d


@is_its_weight
class RMSNorm(nn.RMSNorm):
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, computed in the dtype of `x`, returned in that of the weight.

    The residual stream stays float32 when the model runs in bfloat16, so the two dtypes may differ. It has no bias unless
    it is given one (``svp.models.checkpoints.give_bias``).
    """

    bias: nn.Parameter | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_parameter("bias", None)

    def forward(self, x: Tensor) -> Tensor:
        y = F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)
        if self.bias is not None:
            y = y + self.bias.to(y.dtype)
        return y.to(self.weight.dtype)


@register_notrace_module  # one node for torch.fx: shapes and dtypes are looked at inside
class Block(nn.Module):
    """Add to the residual stream, normalize, mix.

        residual <- residual + drop_path(hidden);   hidden <- mixer(norm(residual))

    Stochastic depth acts on the hidden stream before it joins the residual, as released. The residual is kept in float32 (or
    wider) whatever the model runs in.

    Attributes:
        on_entry: None, or what is done to the hidden stream where it enters: it takes `hidden` and returns what to go on with,
            and the ``svp.ops.Prompts`` that are yet to be added to that.
    """

    def __init__(self, mixer: BidirectionalMamba, norm: RMSNorm, drop_path: float = 0.0) -> None:
        super().__init__()
        self.mixer = mixer
        self.norm = norm
        self.drop_path = DropPath(drop_path)
        self.on_entry: Any = None

    def forward(self, hidden: Tensor, residual: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """hidden and residual (batch, length, embed_dim) -> the same pair; no residual means the first block."""
        added = Prompts()
        if self.on_entry is not None:
            hidden, added = self.on_entry(hidden)
        norm, eps = effective_weight(self.norm), getattr(self.norm, "eps", None)
        if isinstance(norm, str) or eps is None or self._drop_path_acts():
            residual = add_residual(self.drop_path(add_prompts(hidden, added)), residual)
            return self.mixer(self.norm(residual)), residual
        weight, bias = norm
        dtype = self._norm_dtype(hidden)
        exact = dtype if bias is None else torch.promote_types(dtype, torch.float32)  # with a bias, the sum alone is rounded
        residual, normed = add_rms_norm(hidden, residual, weight, eps, added, exact)
        return self.mixer(normed if bias is None else (normed + bias).to(dtype)), residual

    def unfused(self) -> dict[str, str]:
        """What keeps sums and norm in front of the mixer from being one op, and why."""
        norm, drop_path = effective_weight(self.norm), self._drop_path_acts()
        reason = norm if isinstance(norm, str) else "" if getattr(self.norm, "eps", None) is not None else "has no eps"
        return {name: why for name, why in (("drop_path", drop_path), ("norm", reason)) if why}

    def _drop_path_acts(self) -> str:
        """In words, what stochastic depth does; empty if nothing."""
        drops = "drops in training" if self.training and self.drop_path.drop_prob else ""
        return touched(self.drop_path, DropPath) or drops

    def _norm_dtype(self, hidden: Tensor) -> torch.dtype:
        device = hidden.device.type
        return torch.get_autocast_dtype(device) if is_autocast_enabled(device) else self.norm.weight.dtype


@register_notrace_function
def add_residual(hidden: Tensor, residual: Tensor | None) -> Tensor:
    """residual + hidden in float32 or wider."""
    hidden = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
    return hidden if residual is None else residual + hidden


@is_its_weight
class Conv2d(nn.Conv2d):
    """``nn.Conv2d`` without dilation by ``svp.ops.conv2d``: sooner in bfloat16 on some processors, and more exact there."""

    def forward(self, x: Tensor) -> Tensor:
        return conv2d(x, self.weight, self.bias, self.stride, cast(tuple[int, int], self.padding), self.groups)


@register_notrace_module
class PatchEmbed(nn.Module):
    """Image to patch tokens by a convolution; patches may overlap (`stride` below `patch_size`).

    (batch, in_chans, height, width) -> (batch, rows * columns, embed_dim), row by row.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int],
        patch_size: int | tuple[int, int],
        stride: int | tuple[int, int],
        in_chans: int,
        embed_dim: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.patch_size: tuple[int, int] = to_2tuple(patch_size)
        self.stride: tuple[int, int] = to_2tuple(stride)
        self.set_input_size(img_size)
        self.proj = Conv2d(in_chans, embed_dim, self.patch_size, stride=self.stride, device=device, dtype=dtype)

    def set_input_size(self, img_size: int | tuple[int, int]) -> None:
        """Accept images of another size from now on."""
        size: tuple[int, int] = to_2tuple(img_size)
        if any(side < patch for side, patch in zip(size, self.patch_size, strict=True)):
            raise InputError(f"img_size {size} is smaller than patch_size {self.patch_size}")
        self.img_size = size
        rows, columns = (
            (side - patch) // step + 1 for side, patch, step in zip(size, self.patch_size, self.stride, strict=True)
        )
        self.grid_size = (rows, columns)
        self.num_patches = rows * columns

    def feat_ratio(self, as_scalar: bool = True) -> int | tuple[int, int]:
        """Pixels per token along a side."""
        return max(self.stride) if as_scalar else self.stride

    def init_weights(self) -> None:
        """LeCun normal weights, zero bias, as released."""
        fan_in = self.proj.weight[0].numel()
        trunc_normal_(self.proj.weight, std=math.sqrt(1 / fan_in) / 0.87962566103423978)
        assert self.proj.bias is not None
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[-2:]) != self.img_size:
            raise InputError(
                f"images are {x.shape[-2]} x {x.shape[-1]}, this model takes {self.img_size[0]} x {self.img_size[1]}; "
                "resize them, build the model with img_size=..., or call model.set_input_size(...)"
            )
        return self.proj(x).flatten(2).transpose(1, 2)
