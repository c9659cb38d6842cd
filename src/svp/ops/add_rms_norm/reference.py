"""The definition; autograd gives its backward."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from svp.ops.add_rms_norm import Prompts


def add_rms_norm_reference(
    hidden: Tensor, residual: Tensor | None, weight: Tensor, eps: float, prompts: Prompts, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """``svp.ops.add_rms_norm`` in plain PyTorch."""
    hidden = add_prompts_reference(hidden, prompts)
    total = hidden if residual is None else residual + hidden
    normed = F.rms_norm(total, weight.shape, weight.to(total.dtype), eps)
    return total, normed.to(dtype)


def add_prompts_reference(hidden: Tensor, prompts: Prompts) -> Tensor:
    """``svp.ops.add_prompts`` in plain PyTorch."""
    hidden = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
    if not prompts.terms:
        return hidden
    first, *rest = (_prompt(*prompt, dtype=hidden.dtype) for prompt in prompts.terms)
    total = sum(rest, first)
    if prompts.prompted is not None:
        total = torch.where(prompts.prompted[:, None], total, 0)
    return hidden + total


def _prompt(pre_activation: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    prompt = F.silu(pre_activation.to(dtype))
    return prompt if scale is None else scale * prompt
