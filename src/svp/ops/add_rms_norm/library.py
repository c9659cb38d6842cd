"""The kernels as a PyTorch library op."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from svp.ops.add_rms_norm.reference import Inputs
from svp.ops.library import define_op, size


def norm_flops(inputs: Any, eps: float, dtype: torch.dtype) -> int:
    """Per value: 4 for the norm (square, its sum, both factors), 1 for the residual, 4 for a prompt (SiLU, scale, sum)."""
    return size(inputs.hidden) * (4 + (inputs.residual is not None) + 4 * len(inputs.pre_activations))


def norm_backward_flops(inputs: Any, needed: list[bool], eps: float, dtype: torch.dtype) -> int:
    """Per value: 10 for the gradient of the sum, 2 for that of the weight.

    A prompt has 2 for SiLU, 2 for the gradient of its scale and 6 for that of its pre-activation.
    """
    count = len(inputs.pre_activations)
    of_prompts = [*needed[3:-1]]
    total = 10 + 2 * needed[2] + 2 * count * any(of_prompts)
    return size(inputs.hidden) * (total + 6 * sum(of_prompts[:count]) + 2 * sum(of_prompts[count:]))


def _fake(inputs: Inputs, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    hidden = inputs.hidden
    return hidden.new_empty(hidden.shape, dtype=torch.float32), hidden.new_empty(hidden.shape, dtype=dtype)


add_rms_norm_op, add_rms_norm_backward_op = define_op(
    "add_rms_norm",
    Inputs,
    "float eps, ScalarType dtype",
    outputs=2,
    fake=_fake,
    flops=norm_flops,
    backward_flops=norm_backward_flops,
    first_is_sum=True,
)
