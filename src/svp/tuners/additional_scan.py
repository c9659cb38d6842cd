"""Additional-scan: every direction of every mixer gets more states than it was trained with.

    A <- [A, -exp(A_log+)],   B <- [B, x_B x'],   C <- [C, x_C x']       A_log+ (d_inner, n); x_B, x_C (n, d_inner)

x' is what the convolution gives; the model's own B and C are made of it too. C of the new states starts at zero, so training
starts at the plain backbone; B starts as a fresh linear map, so that C has a gradient from the first step. The new A_log of a
channel start as quantiles of its trained ones, spread evenly between the slowest state and the fastest: the spans of memory
that pre-training found, not those that it began with.

What trains: A_log+, x_B, x_C and the head. Without head, with E = d_inner, L = depth, n = num_states:  2 L 3 n E;  663,552 for
Vim-S with the defaults, as in MambaPEFT's table (672 thousand with a head of about 9). It cannot be merged into the same
backbone, which has fewer states.

Source: Yoshimura et al., "MambaPEFT", ICLR 2025, arXiv:2411.03855.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from svp.errors import InputError
from svp.models.effective_weight import Weights, effective_weight
from svp.models.mixer import BidirectionalMamba, Side
from svp.tuners.attachment import Attachment
from svp.tuners.method import Method, register_method

_MAX_STATES = 64  # what every backend of the scan takes


@register_method("additional_scan", title="additional-scan")
@dataclass(frozen=True)
class AdditionalScan(Method):
    """More states; they are found at ``model.additional_scan[layer][direction]``, direction 1 the backward one.

    Args:
        num_states: States added to every direction; with the model's own 64 at most.
    """

    default_lr = 1e-2
    default_weight_decay = 1e-4

    num_states: int = 6

    def __post_init__(self) -> None:
        if self.num_states < 1:
            raise InputError(f"additional_scan: num_states is {self.num_states}, expected 1 or more")

    def attach(self, site: Attachment) -> Iterable[str]:
        num_states, mixers = self.num_states, [block.mixer for block in site.model.layers]
        for mixer in mixers:
            if "sides" in vars(mixer):
                raise InputError("additional_scan: another method changes the scan already; name additional_scan before it")
            if num_states + mixer.d_state > _MAX_STATES:
                raise InputError(
                    f"additional_scan: num_states is {num_states}, expected 1 to {_MAX_STATES - mixer.d_state}: "
                    f"the model has {mixer.d_state} states, and the scan takes {_MAX_STATES}"
                )
        added = [[MoreStates(num_states, A_log) for A_log in (mixer.A_log, mixer.A_b_log)] for mixer in mixers]
        for layer, (mixer, pair) in enumerate(zip(mixers, added, strict=True)):
            site.replace(f"layers.{layer}.mixer.sides", _WithMoreStates(mixer, pair))
        return site.add("additional_scan", nn.ModuleList(nn.ModuleList(pair) for pair in added))


class MoreStates(nn.Module):
    """States that are added to one direction of a mixer.

    Args:
        num_states: How many.
        A_log: That of the trained states, (d_inner, d_state).

    Attributes:
        A_log: (d_inner, num_states)
        x_proj: d_inner channels to B and, behind them, C.
    """

    def __init__(self, num_states: int, A_log: Tensor) -> None:
        super().__init__()
        between = torch.arange(1, num_states + 1, device=A_log.device, dtype=torch.float32) / (num_states + 1)
        self.A_log = nn.Parameter(torch.quantile(A_log.detach().float(), between, dim=1).T.to(A_log.dtype).contiguous())
        self.x_proj = nn.Linear(len(A_log), 2 * num_states, bias=False, device=A_log.device, dtype=A_log.dtype)
        nn.init.zeros_(self.x_proj.weight[num_states:])


class _WithMoreStates:
    """The ``sides`` of a mixer, with more states in both."""

    def __init__(self, mixer: BidirectionalMamba, added: list[MoreStates]) -> None:
        self.of_mixer = mixer.sides  # may be another method's already
        self.added = added
        self.x_projs = [WiderProjection(mixer, name, more) for name, more in zip(("x_proj", "x_proj_b"), added, strict=True)]

    def __call__(self) -> tuple[Side, Side]:
        forward, backward = (
            side._replace(x_proj=x_proj, A=torch.cat([side.A, -torch.exp(more.A_log)], dim=1))
            for side, x_proj, more in zip(self.of_mixer(), self.x_projs, self.added, strict=True)
        )
        return forward, backward


class WiderProjection(nn.Module):
    """A mixer's ``x_proj``, whatever it is at the time, with the B and C of added states behind its own ones."""

    def __init__(self, mixer: BidirectionalMamba, name: str, more: MoreStates) -> None:
        super().__init__()
        self._held: tuple[Any, str, MoreStates] = (mixer, name, more)  # no sub-modules: all have their names in the model

    def forward(self, x: Tensor) -> Tensor:
        mixer, name, more = self._held
        return self._joined(getattr(mixer, name)(x), more.x_proj(x), dim=-1)

    def effective_weight(self) -> Weights | str:
        """Weight and bias of the one map that this is."""
        mixer, name, more = self._held
        own, added = effective_weight(getattr(mixer, name)), effective_weight(more.x_proj)
        if isinstance(own, str) or isinstance(added, str):
            return own if isinstance(own, str) else f"the projection to added states {added}"
        weight, bias = self._joined(own[0], added[0], dim=0), None
        if own[1] is not None or added[1] is not None:
            own_bias, added_bias = (w.new_zeros(len(w)) if b is None else b for w, b in (own, added))
            bias = self._joined(own_bias, added_bias, dim=0)
        return weight, bias

    def _joined(self, own: Tensor, added: Tensor, dim: int) -> Tensor:
        """Step size, B and C (or the rows that make them), those of added states behind the others."""
        mixer = self._held[0]
        dt, B, C = torch.split(own, [mixer.dt_rank, mixer.d_state, mixer.d_state], dim)
        more_B, more_C = added.chunk(2, dim)
        return torch.cat([dt, B, more_B, C, more_C], dim)
