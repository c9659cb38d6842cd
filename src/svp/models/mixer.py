"""The mixer of a Vim block: a projection in, a convolution and a scan in each direction, a projection out."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from svp.models.effective_weight import effective_weight, is_its_weight
from svp.ops import Direction, bidirectional_scan, causal_conv1d, linear, selective_scan


@is_its_weight
class CausalConv1d(nn.Module):
    """``svp.ops.causal_conv1d`` with SiLU as a module, channel-last in and out.

    Its parameters have the names, shapes and initialization of an ``nn.Conv1d``, but it is none: what dispatches on
    ``isinstance(module, nn.Conv1d)`` (PEFT's LoRA, say) would take it for channel-first and linear.

    Args:
        d_inner: Channels; every one has its own filter.
        d_conv: Taps.
        reverse: Look at later tokens instead of earlier ones.
    """

    def __init__(
        self,
        d_inner: int,
        d_conv: int,
        reverse: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.reverse = reverse
        self.weight = nn.Parameter(torch.empty(d_inner, 1, d_conv, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(d_inner, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform in +-1/sqrt(d_conv), as ``nn.Conv1d``."""
        bound = self.weight.shape[-1] ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, length, d_inner) -> (batch, length, d_inner)"""
        return causal_conv1d(x, self.weight.squeeze(1), self.bias, activation="silu", reverse=self.reverse)


@is_its_weight
class Linear(nn.Linear):
    """``nn.Linear`` by ``svp.ops.linear``: the same numbers, sooner on some processors."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class Side(NamedTuple):
    """What one direction of a mixer is made of.

    Args:
        conv1d: Convolution with SiLU.
        x_proj: Map to the low-rank step size, B and C, dt_rank + 2 states wide.
        dt_proj: Map from the low-rank step size to the channels.
        A: Decay, negative, (d_inner, states).
        D: Skip weight, (d_inner,).
        initial_state: State in front of the first token that the direction meets, (1, d_inner, states); zero if None.
    """

    conv1d: nn.Module
    x_proj: nn.Module
    dt_proj: nn.Module
    A: Tensor
    D: Tensor
    initial_state: Tensor | None = None


class BidirectionalMamba(nn.Module):
    """Mixer of a Vim block: one projection in, a scan in each direction, their mean, one projection out.

        x, z = in_proj(u)
        y_forward  = scan(conv1d(x),   A,   D;   z)             from the first token to the last
        y_backward = scan(conv1d_b(x), A_b, D_b; z)             from the last token to the first
        out_proj((y_forward + y_backward) / 2)

    Parameter names are those of the released checkpoints: ``A_log``, ``A_b_log``, ``conv1d``, ``conv1d_b`` and so on. Wrapping
    any sub-module (LoRA, say) takes effect: it is called as a module, or asked for its ``effective_weight``. So does another
    function in the place of ``sides``: a direction may scan more states than ``d_state``.

    Args:
        d_model: Width of the tokens.
        d_state: States per channel.
        d_conv: Taps of the convolution.
        expand: d_inner = expand * d_model.
        dt_rank: Rank of the step-size projection; ceil(d_model / 16) if None.
        depth: Blocks of the whole model; `out_proj` starts smaller by sqrt(depth).
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | None = None,
        depth: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.d_model, self.d_state, self.d_conv, self.depth = d_model, d_state, d_conv, depth
        self.d_inner = expand * d_model
        self.dt_rank = dt_rank or math.ceil(d_model / 16)
        d_inner, d_x = self.d_inner, self.dt_rank + 2 * d_state

        def empty(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape, device=device, dtype=dtype))

        def projection(inputs: int, outputs: int, bias: bool = False) -> Linear:
            return Linear(inputs, outputs, bias, device=device, dtype=dtype)

        # the order of the released checkpoints
        self.A_log, self.D = empty(d_inner, d_state), empty(d_inner)
        self.A_b_log, self.D_b = empty(d_inner, d_state), empty(d_inner)
        self.in_proj = projection(d_model, 2 * d_inner)
        self.conv1d = CausalConv1d(d_inner, d_conv, device=device, dtype=dtype)
        self.x_proj = projection(d_inner, d_x)
        self.dt_proj = projection(self.dt_rank, d_inner, bias=True)
        self.conv1d_b = CausalConv1d(d_inner, d_conv, reverse=True, device=device, dtype=dtype)
        self.x_proj_b = projection(d_inner, d_x)
        self.dt_proj_b = projection(self.dt_rank, d_inner, bias=True)
        self.out_proj = projection(d_inner, d_model)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """A = -(1..d_state), D = 1, steps log-uniform in [0.001, 0.1] in *both* directions; the rest as PyTorch does.

        The release gives the step-size initialization to the forward direction only and leaves the backward one at bias 0.
        """
        if self.A_log.is_meta:  # a model that only shows its shapes: PyTorch would work them out in Python, slowly
            return
        for A_log, D in ((self.A_log, self.D), (self.A_b_log, self.D_b)):
            states = torch.arange(1, self.d_state + 1, dtype=torch.float32, device=A_log.device)
            A_log.copy_(states.log().expand_as(A_log))
            nn.init.ones_(D)
        for module in (self.in_proj, self.conv1d, self.x_proj, self.conv1d_b, self.x_proj_b, self.out_proj):
            module.reset_parameters()
        self.out_proj.weight.div_(math.sqrt(self.depth))
        for dt_proj in (self.dt_proj, self.dt_proj_b):
            nn.init.uniform_(dt_proj.weight, -(self.dt_rank**-0.5), self.dt_rank**-0.5)
            low, high = math.log(1e-3), math.log(1e-1)
            step = torch.empty_like(dt_proj.bias, dtype=torch.float32).uniform_(low, high).exp_().clamp_(min=1e-4)
            dt_proj.bias.copy_(step + torch.log(-torch.expm1(-step)))  # inverse of softplus

    def forward(self, u: Tensor) -> Tensor:
        """(batch, length, d_model) -> (batch, length, d_model)"""
        xz = self.in_proj(u)
        forward, backward = self.sides()
        directions = self._direction(forward), self._direction(backward)
        if directions[0] is not None and directions[1] is not None:
            return self.out_proj(bidirectional_scan(xz, directions[0], directions[1]))
        x, z = xz.chunk(2, dim=-1)
        y, y_b = (
            selective_scan(*self.scan_inputs(x, side), side.D, z, initial_state=side.initial_state, reverse=reverse)
            for side, reverse in ((forward, False), (backward, True))
        )
        return self.out_proj((y + y_b) / 2)

    def sides(self) -> tuple[Side, Side]:
        """What the forward and the backward direction are made of."""
        return (
            Side(self.conv1d, self.x_proj, self.dt_proj, -torch.exp(self.A_log), self.D),
            Side(self.conv1d_b, self.x_proj_b, self.dt_proj_b, -torch.exp(self.A_b_log), self.D_b),
        )

    def unfused(self) -> dict[str, str]:
        """Sub-modules that cannot say what weight they amount to, and why; because of one every op is called on its own."""
        found = {}
        for side, direction in zip(self.sides(), ("", "_b"), strict=True):
            for name in ("conv1d", "x_proj", "dt_proj"):
                weights = effective_weight(getattr(side, name))
                if isinstance(weights, str):
                    found[name + direction] = weights
                elif weights[1] is None and name != "x_proj":
                    found[name + direction] = "has no bias"
        return found

    def _direction(self, side: Side) -> Direction | None:
        """What the fused kernels read, if every sub-module can say it."""
        conv1d, x_proj, dt_proj = (effective_weight(m) for m in (side.conv1d, side.x_proj, side.dt_proj))
        if isinstance(conv1d, str) or isinstance(x_proj, str) or isinstance(dt_proj, str):
            return None
        conv_bias, dt_bias = conv1d[1], dt_proj[1]
        if conv_bias is None or dt_bias is None:
            return None
        conv_weight = conv1d[0].squeeze(1)
        return Direction(conv_weight, conv_bias, _with_bias(*x_proj), dt_proj[0], dt_bias, side.A, side.D, side.initial_state)

    def scan_inputs(self, x: Tensor, side: Side) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """What one direction's scan reads, every sub-module called.

        Args:
            x: The first half of what `in_proj` gives, (batch, length, d_inner).
            side: The direction.

        Returns:
            x behind the convolution and dt in front of the softplus, (batch, length, d_inner); A, (d_inner, states); B and C,
            (batch, length, states).
        """
        x, states = side.conv1d(x), side.A.shape[1]
        dt, B, C = torch.split(side.x_proj(x), [self.dt_rank, states, states], dim=-1)
        return x, _without_autocast(side.dt_proj, dt, self.A_log.dtype), side.A, B, C


def _with_bias(weight: Tensor, bias: Tensor | None) -> Tensor:
    """A weight with its bias as last column, as ``Direction.x_proj`` holds it."""
    return weight if bias is None else torch.cat([weight, bias.unsqueeze(1)], dim=1)


def _without_autocast(module: nn.Module, x: Tensor, dtype: torch.dtype) -> Tensor:
    """Call `module` in `dtype`: the bias of the step size is as small as -7, and bfloat16 would cost 3 % of the step."""
    if not is_autocast_enabled(x.device.type):
        return module(x)
    with without_autocast(x.device.type):
        return module(x.to(dtype))


def without_autocast(device: str) -> AbstractContextManager[Any]:
    """What is computed inside keeps its precision."""
    return torch.autocast(device, enabled=False) if is_autocast_enabled(device) else nullcontext()


def is_autocast_enabled(device: str) -> bool:
    """Whether autocast is on for this type of device."""
    return device != "meta" and torch.is_autocast_enabled(device)  # "meta" has no autocast
