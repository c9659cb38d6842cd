"""The definition of the depthwise causal convolution in plain PyTorch; autograd gives its backward."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Inputs(NamedTuple):
    """The tensors of ``svp.ops.causal_conv1d``."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None


def causal_conv1d_reference(inputs: Inputs, activation: str | None, reverse: bool) -> Tensor:
    """See ``svp.ops.causal_conv1d``. Computes in float32, or in float64 where any argument is float64."""
    x, weight, bias = inputs
    dtype = torch.float64 if any(t is not None and t.dtype == torch.float64 for t in inputs) else torch.float32
    length, d_conv = x.shape[1], weight.shape[1]
    taps = (weight.flip(1) if reverse else weight).to(dtype)
    padding = (0, 0, 0, d_conv - 1) if reverse else (0, 0, d_conv - 1, 0)
    padded = F.pad(x.to(dtype), padding)  # (batch, length + d_conv - 1, d_inner)
    # a sum of shifted products: no transpose to channel-first and back
    y = sum((padded[:, k : k + length] * taps[:, k] for k in range(d_conv)), torch.zeros((), dtype=dtype, device=x.device))
    if bias is not None:
        y = y + bias.to(dtype)
    return (F.silu(y) if activation == "silu" else y).to(x.dtype)
