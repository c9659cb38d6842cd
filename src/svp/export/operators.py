"""The operators of ``svp.ops`` in PyTorch's own, which every runtime has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from svp.ops import Direction, Prompt, Prompts
from svp.ops.add_rms_norm.reference import add_prompts_reference
from svp.ops.bidirectional_scan.reference import split_bias


class Recurrence(Protocol):
    """The loop of a selective scan, in the form that a runtime runs fast.

        step[t] = softplus(dt[t])
        h[t]    = exp(step[t] * A) * h[t-1] + step[t] * B[t] * x[t],        h = state before the first token, zero if None
        y[t]    = C[t] . h[t]

    Shapes are those of ``svp.ops.selective_scan`` with the tokens in front, (length, batch, ...), as loops run over them.
    Returns y and the last state.
    """

    def __call__(
        self, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor | None, reverse: bool
    ) -> tuple[Tensor, Tensor]: ...


class PlainOperators(TorchFunctionMode):
    """Put operators of PyTorch in the place of ours, which nobody else knows.

    Args:
        recurrence: The loop of every scan.
    """

    def __init__(self, recurrence: Recurrence) -> None:
        super().__init__()
        self.recurrence = recurrence
        self.plain: dict[Any, Callable[..., Any]] = {
            torch.ops.svp.add_rms_norm.default: _add_rms_norm,
            torch.ops.svp.bidirectional_scan.default: self.bidirectional_scan,
            torch.ops.svp.causal_conv1d.default: causal_conv1d,
            torch.ops.svp.selective_scan.default: self.selective_scan,
        }

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return self.plain.get(func, func)(*args, **(kwargs or {}))

    def bidirectional_scan(self, xz: Tensor, weights: list[Tensor], backend: str) -> Tensor:
        """``svp::bidirectional_scan``; the gate, which both directions have in common, is applied to their sum."""
        x, z = xz.chunk(2, dim=-1)
        states: list[Tensor | None] = [*weights[14:]] or [None, None]
        y, y_b = (
            self._direction(x, Direction(*weights[7 * side : 7 * side + 7])._replace(initial_state=states[side]), bool(side))
            for side in (0, 1)
        )
        return (y + y_b).transpose(0, 1) * F.silu(z)

    def _direction(self, x: Tensor, weights: Direction, reverse: bool) -> Tensor:
        """Half of y of one direction without the gate, (length, batch, d_inner), as the mean takes it.

        All but the recurrence is of matrices, (length * batch, ...): a product of matrices takes its bias along, and
        onnxruntime moves no transposition behind a reshape, where there would be two of it.
        """
        tokens_first = causal_conv1d(x, weights.conv_weight, weights.conv_bias, "silu", reverse).transpose(0, 1)
        length, batch, d_inner = tokens_first.shape
        x = tokens_first.reshape(-1, d_inner)
        dt_rank, d_state = weights.dt_proj.shape[1], weights.A.shape[1]
        p_dt, B, C = torch.split(F.linear(x, *split_bias(weights.x_proj, d_inner)), [dt_rank, d_state, d_state], dim=-1)
        dt = F.linear(p_dt, weights.dt_proj, weights.dt_bias)
        dt, B, C, skipped = (t.reshape(length, batch, -1) for t in (dt, B, C * 0.5, weights.D * 0.5 * x))
        return self.recurrence(tokens_first, dt, weights.A, B, C, weights.initial_state, reverse)[0] + skipped

    def selective_scan(
        self,
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        z: Tensor | None,
        dt_bias: Tensor | None,
        initial_state: Tensor | None,
        reverse: bool,
        backend: str,
    ) -> tuple[Tensor, Tensor]:
        """``svp::selective_scan``."""
        dt = dt if dt_bias is None else dt + dt_bias
        x_t, dt_t, B_t, C_t = (t.transpose(0, 1) for t in (x, dt, B, C))
        y, state = self.recurrence(x_t, dt_t, A, B_t, C_t, initial_state, reverse)
        y = y.transpose(0, 1)
        if D is not None:
            y = y + D * x
        if z is not None:
            y = y * F.silu(z)
        return y, state


def causal_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None, reverse: bool, backend: str = ""
) -> Tensor:
    """``svp::causal_conv1d`` as a depthwise convolution of images one pixel high, for which runtimes have kernels."""
    taps, padding = (weight.flip(1), (0, weight.shape[1] - 1)) if reverse else (weight, (weight.shape[1] - 1, 0))
    rows = F.pad(x.unsqueeze(1).permute(0, 3, 1, 2), padding)  # (batch, d_inner, 1, length + d_conv - 1)
    y = F.conv2d(rows, taps[:, None, None], bias, groups=x.shape[2]).permute(0, 2, 3, 1).squeeze(1)
    return F.silu(y) if activation == "silu" else y


def _add_rms_norm(
    hidden: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    pre_activations: list[Tensor],
    scales: list[Tensor],
    prompted: Tensor | None,
    eps: float,
    dtype: torch.dtype,
    backend: str,
) -> tuple[Tensor, Tensor]:
    terms = [Prompt(*term) for term in zip(pre_activations, scales, strict=True)]
    total = add_prompts_reference(hidden, Prompts(terms, prompted))
    if residual is not None:
        total = residual + total
    # written so that onnxruntime finds its one kernel for it
    return total, (total / torch.sqrt(total.pow(2).mean(-1, keepdim=True) + eps) * weight).to(dtype)
