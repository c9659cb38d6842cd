"""The definition of the selective scan in plain PyTorch; autograd gives its backward."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Inputs(NamedTuple):
    """The tensors of ``svp.ops.selective_scan``."""

    x: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    dt_bias: Tensor | None
    initial_state: Tensor | None = None


def selective_scan_reference(inputs: Inputs, reverse: bool) -> tuple[Tensor, Tensor]:
    """y and last state of ``svp.ops.selective_scan``, in float32, or in float64 where any argument is float64."""
    dtype = state_dtype(inputs)
    x, dt, A, B, C = (t.to(dtype) for t in inputs[:5])
    D, z, dt_bias, initial_state = inputs[5:]

    step = F.softplus(dt if dt_bias is None else dt + dt_bias.to(dtype))
    # unbind once: its backward is one stack, while indexing would fill a whole tensor of zeros per token
    steps, steps_x, Bs, Cs = (t.unbind(1) for t in (step, step * x, B, C))
    length = len(steps)
    # (batch or 1, d_inner, d_state)
    h = x.new_zeros(x.shape[0], x.shape[2], A.shape[1]) if initial_state is None else initial_state.to(dtype)
    ys: list[Tensor] = [h] * length
    for t in reversed(range(length)) if reverse else range(length):
        decay = torch.exp(steps[t].unsqueeze(-1) * A)
        h = decay * h + steps_x[t].unsqueeze(-1) * Bs[t].unsqueeze(1)
        ys[t] = (h @ Cs[t].unsqueeze(-1)).squeeze(-1)
    y = torch.stack(ys, dim=1)

    if D is not None:
        y = y + D.to(dtype) * x
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(inputs.x.dtype), h


def state_dtype(inputs: Inputs) -> torch.dtype:
    """What the recurrence is computed in: float64 where any argument is float64, else float32."""
    float64 = any(t is not None and t.dtype == torch.float64 for t in inputs)
    return torch.float64 if float64 else torch.float32
