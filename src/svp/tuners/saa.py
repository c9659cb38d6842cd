"""SAA: step size, B and C of every token are steered by coefficients that are made from the token itself.

    c  = sigmoid(W2 SiLU(W1 v))                    (num_coefficients,), from a token v of the mixer's input
    dt <- dt + c P_dt                              in front of bias and softplus, (d_inner,)
    B  <- B + c P_B,    C <- C + c P_C             (d_state,)

c is shared by both directions, P_dt, P_B and P_C belong to one. They start at zero, so training starts at the plain backbone.
The gates of the scan are reached directly, neither by way of its input nor by a weight, so the unfused ops run.

What trains: W1, W2, P and the head. Without head, with d = embed_dim, E = d_inner, N = d_state, L = depth, r = hidden_dim,
k = num_coefficients:  L (d r + r k + 2 k (E + 2 N));  921,600 for Vim-S with the defaults.

Source: arXiv:2605.03438, 2026. Our choice are the widths, that v is taken behind the block's norm, where `in_proj` takes it,
and that P_dt reaches the step size of every channel, behind `dt_proj`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svp.errors import InputError
from svp.models.mixer import BidirectionalMamba
from svp.tuners.attachment import Attachment
from svp.tuners.method import Method, register_method


@register_method("saa", title="SAA")
@dataclass(frozen=True)
class SAA(Method):
    """Coefficients per token and what they add to dt, B and C; they are found at ``model.saa``, one entry per layer.

    Args:
        hidden_dim: Width between the two maps that make the coefficients.
        num_coefficients: Coefficients per token.
    """

    default_lr = 1.5e-2
    default_weight_decay = 1e-4
    widths = ("hidden_dim", "num_coefficients")

    hidden_dim: int = 32
    num_coefficients: int = 16

    def __post_init__(self) -> None:
        for name in ("hidden_dim", "num_coefficients"):
            if getattr(self, name) < 1:
                raise InputError(f"saa: {name} is {getattr(self, name)}, expected 1 or more")

    def attach(self, site: Attachment) -> Iterable[str]:
        steering = []
        for block in site.model.layers:
            mixer = block.mixer
            steer = Steering(mixer, self)
            now = _Coefficients(steer)
            site.hook(mixer.in_proj.register_forward_pre_hook(now))
            # also where the forward pass is left early, as recomputation of checkpointed blocks does
            site.hook(mixer.register_forward_hook(now.forget, always_call=True))
            for direction, end in enumerate(("", "_b")):
                x_proj, dt_proj = getattr(mixer, f"x_proj{end}"), getattr(mixer, f"dt_proj{end}")
                site.hook(x_proj.register_forward_hook(_Add(now, "of_x_proj", direction, mixer.dt_rank)))
                site.hook(dt_proj.register_forward_hook(_Add(now, "of_dt", direction)))
            steering.append(steer)
        return site.add("saa", nn.ModuleList(steering))


class Steering(nn.Module):
    """Tokens (batch, length, d_model) -> coefficients (batch, length, num_coefficients), and where they lead.

    Attributes:
        of_dt: P_dt of either direction, (num_coefficients, d_inner).
        of_x_proj: P_B and, behind it, P_C of either direction, (num_coefficients, 2 d_state).
    """

    def __init__(self, mixer: BidirectionalMamba, config: SAA) -> None:
        super().__init__()
        like = mixer.A_log
        factory: dict[str, Any] = dict(device=like.device, dtype=like.dtype)
        self.down = nn.Linear(mixer.d_model, config.hidden_dim, bias=False, **factory)
        self.up = nn.Linear(config.hidden_dim, config.num_coefficients, bias=False, **factory)

        def zeros(width: int) -> nn.ParameterList:
            return nn.ParameterList(nn.Parameter(torch.zeros(config.num_coefficients, width, **factory)) for _ in range(2))

        self.of_dt, self.of_x_proj = zeros(mixer.d_inner), zeros(2 * mixer.d_state)

    def forward(self, v: Tensor) -> Tensor:
        return torch.sigmoid(self.up(F.silu(self.down(v))))


class _Coefficients:
    """Forward pre-hook of ``in_proj``, which alone sees the tokens: keeps their coefficients until the mixer is through."""

    def __init__(self, steering: Steering) -> None:
        self.steering = steering
        self.value: Tensor | None = None

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.value = self.steering(*args)

    def forget(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor | None) -> None:
        """Forward hook of the mixer."""
        self.value = None


class _Add:
    """Forward hook of a projection: adds coefficients times P to its output, behind the first `skipped` channels."""

    def __init__(self, now: _Coefficients, name: str, direction: int, skipped: int = 0) -> None:
        self.now, self.name, self.direction, self.skipped = now, name, direction, skipped

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        P = getattr(self.now.steering, self.name)[self.direction]
        assert self.now.value is not None
        return output + F.pad(self.now.value.to(P.dtype) @ P, (self.skipped, 0)).to(output.dtype)
