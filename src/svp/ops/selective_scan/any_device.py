"""The scan on any device PyTorch has, with a backward by hand that runs the recurrence again.

Autograd through the reference keeps some (batch, length, d_inner, d_state) tensors of every scan of a model from forward to
backward. This one keeps the arguments; the states of one scan live during its backward alone. With g the gradient of h:

    g[t]  = C[t] gy[t] + decay[t+1] g[t+1]                    decay[t] = exp(step[t] A)
    gC[t] = sum_d gy[t] h[t]                                  gB[t] = sum_d g[t] step[t] x[t]
    e[t]  = g[t] h[t-1] decay[t]                              gA = sum_t e[t] step[t]
    gx[t] = step[t] sum_n g[t] B[t]                           gstep[t] = x[t] sum_n g[t] B[t] + sum_n e[t] A
    of the initial state: decay[0] g[0]
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from svp.ops.selective_scan.reference import Inputs, selective_scan_reference, state_dtype

forward = selective_scan_reference


def backward(grads: list[Tensor], inputs: Inputs, needed: list[bool], reverse: bool) -> list[Tensor]:
    """Gradients of the inputs that `needed` marks, in their order."""
    dtype = state_dtype(inputs)
    x, dt, A, B, C = (t.to(dtype) for t in inputs[:5])
    D, z, dt_bias, initial_state = (t if t is None else t.to(dtype) for t in inputs[5:])
    grad_y, grad_state = grads
    raw_step = dt if dt_bias is None else dt + dt_bias
    step = F.softplus(raw_step)
    step_x = step * x
    order = list(reversed(range(x.shape[1]))) if reverse else list(range(x.shape[1]))

    states: dict[int, Tensor] = {}
    # (batch or 1, d_inner, d_state)
    h = x.new_zeros(x.shape[0], x.shape[2], A.shape[1]) if initial_state is None else initial_state
    for t in order:
        states[t] = h  # the state *before* token t
        h = torch.exp(step[:, t, :, None] * A) * h + step_x[:, t, :, None] * B[:, t, None, :]

    grad_y = grad_y.to(dtype)
    gate = None if z is None else F.silu(z)
    grad_s = grad_y if gate is None else grad_y * gate  # of y before the gate, (batch, length, d_inner)
    grad_h = grad_state.to(dtype)
    grad_A = torch.zeros_like(A)
    grad_B, grad_C = torch.empty_like(B), torch.empty_like(C)
    grad_step, grad_step_x = torch.empty_like(x), torch.empty_like(x)
    ungated = torch.empty_like(x)
    for t in reversed(order):
        grad_C[:, t] = (grad_s[:, t, None, :] @ h).squeeze(1)
        if needed[6]:
            ungated[:, t] = (h @ C[:, t, :, None]).squeeze(-1)
        grad_h = grad_h + grad_s[:, t, :, None] * C[:, t, None, :]
        grad_B[:, t] = (step_x[:, t, None, :] @ grad_h).squeeze(1)
        grad_step_x[:, t] = (grad_h @ B[:, t, :, None]).squeeze(-1)
        decay = torch.exp(step[:, t, :, None] * A)
        h = states.pop(t)
        grad_h = grad_h * decay
        e = grad_h * h
        grad_step[:, t] = (e * A).sum(-1)
        if needed[2]:
            grad_A += (e * step[:, t, :, None]).sum(0)

    grad_x = grad_step_x * step
    grad_raw_step = (grad_step + grad_step_x * x) * torch.sigmoid(raw_step)
    grad_D = grad_z = None
    if D is not None:
        grad_x = grad_x + D * grad_s
        grad_D = (grad_s * x).sum((0, 1))
        ungated = ungated + D * x
    if z is not None:
        sigmoid = torch.sigmoid(z)
        grad_z = grad_y * ungated * sigmoid * (1 + z * (1 - sigmoid))
    grad_initial = None if initial_state is None else grad_h.sum_to_size(initial_state.shape)
    results = (grad_x, grad_raw_step, grad_A, grad_B, grad_C, grad_D, grad_z, grad_raw_step.sum((0, 1)), grad_initial)
    return [
        grad.to(given.dtype)
        for grad, given, need in zip(results, inputs, needed, strict=True)
        if need and grad is not None and given is not None
    ]
