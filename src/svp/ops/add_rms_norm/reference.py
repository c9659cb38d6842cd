"""The definition; autograd gives its backward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from svp.ops.linear import linear


class Prompt(NamedTuple):
    """scale * SiLU(pre_activation), to be added to every token.

    Args:
        pre_activation: (batch, length, d_model)
        scale: One factor per channel, (d_model,); None for 1.
    """

    pre_activation: Tensor
    scale: Tensor | None = None


class LinearPrompt(NamedTuple):
    """scale * SiLU(weight v + bias), to be added to every token; v is `source`, or what a first map makes of it.

    Unlike those of a ``Prompt``, the pre-activations are not kept for the backward pass, which computes them again.

    Args:
        source: What is mapped, (batch, length, inputs).
        scale: One factor per channel, (d_model,); None for 1.
        weight: Weight of the map, (d_model, inputs); with a first map, (d_model, width).
        bias: Bias of the map, (d_model,), or None.
        first: Weight, (width, inputs), and bias, (width,) or None, of a map that `source` goes through before; None for none.
    """

    source: Tensor
    scale: Tensor | None
    weight: Tensor
    bias: Tensor | None
    first: tuple[Tensor, Tensor | None] | None = None

    @property
    def pre_activation(self) -> Tensor:
        """weight v + bias, (batch, length, d_model); computed at every access."""
        mapped = self.source if self.first is None else linear(self.source, *self.first)
        return linear(mapped, self.weight, self.bias)


class Prompts(NamedTuple):
    """What is added to the tokens of a sequence.

    Args:
        terms: At most two prompts.
        prompted: Tokens that they are added to, (length,) of bool; None for all.
    """

    terms: Sequence[Prompt | LinearPrompt] = ()
    prompted: Tensor | None = None


class Inputs(NamedTuple):
    """The tensors of the kernels; `prompted` is given where there are prompts, and every prompt has a scale.

    The backward has the sum in place of `hidden` and no `residual`.
    """

    hidden: Tensor
    residual: Tensor | None
    weight: Tensor
    pre_activations: list[Tensor]
    scales: list[Tensor]
    prompted: Tensor | None


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
    first, *rest = (_prompt(prompt.pre_activation, prompt.scale, hidden.dtype) for prompt in prompts.terms)
    total = sum(rest, first)
    if prompts.prompted is not None:
        total = torch.where(prompts.prompted[:, None], total, 0)
    return hidden + total


def _prompt(pre_activation: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    prompt = F.silu(pre_activation.to(dtype))
    return prompt if scale is None else scale * prompt
