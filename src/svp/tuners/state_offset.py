"""State-offset tuning: what a scan reads at every token is shifted by a constant, of the state or of the output.

    form "h"    y[t] = (C[t] . (h[t] + h') + D x[t]) SiLU(z[t])        h' (d_inner, d_state)
    form "y"    y[t] = (C[t] . h[t] + D x[t] + y') SiLU(z[t])          y' (d_inner,)

for every direction of every mixer; as the mixer takes the mean of both, the gate of either counts half. Offsets start at zero,
so training starts at the plain backbone. In form "y" it is the mean of both y' that acts.

An offset is a state that never changes: its decay is 1 (A = 0), nothing is added to it (B = 0), and it starts at h'. It is
read by C, or by 1 in form "y". So the scan has twice as many states in form "h" and one more in form "y", and stays on the
fused kernels.

What trains: h' or y', and the head. Without head, with E = d_inner, N = d_state, L = depth: 2 L E N in form "h", 2 L E in form
"y";  589,824 and 36,864 for Vim-S. It cannot be merged: no weight of the backbone does the same.

Source: Kang et al., "State-offset Tuning", ACL 2025, arXiv:2503.03499 ("State-offset Tuning (h)" and "(y)"; released code
furiosa-ai/ssm-state-tuning, whose learning rate for "y" is ten times that for "h").
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from svp.errors import InputError
from svp.models.effective_weight import Weights, effective_weight
from svp.models.mixer import BidirectionalMamba, Side
from svp.tuners.attachment import Attachment
from svp.tuners.method import Method, register_method

_MAX_STATES = 64  # what every backend of the scan takes


@register_method("state_offset", title="state-offset")
@dataclass(frozen=True)
class StateOffset(Method):
    """Offsets of the scans; they are found at ``model.state_offset[layer][direction]``, direction 1 the backward one.

    Args:
        form: "h", an offset of the state; "y", an offset of the output.
    """

    default_lr = 1e-2
    default_weight_decay = 1e-4

    form: Literal["h", "y"] = "h"

    def __post_init__(self) -> None:
        if self.form not in ("h", "y"):
            raise InputError(f"state_offset: form is {self.form!r}, expected 'h' or 'y'")

    def attach(self, site: Attachment) -> Iterable[str]:
        offsets = []
        for layer, block in enumerate(site.model.layers):
            A = [side.A.detach() for side in block.mixer.sides()]
            states = A[0].shape[1]
            if self.form == "h" and 2 * states > _MAX_STATES:
                raise InputError(
                    f"state_offset: form 'h' doubles {states} states, and the scan takes {_MAX_STATES}; use form 'y'"
                )
            pair = nn.ParameterList(nn.Parameter(a.new_zeros(len(a), states if self.form == "h" else 1)) for a in A)
            site.replace(f"layers.{layer}.mixer.sides", _WithOffsets(block.mixer, pair, self.form == "y"))
            offsets.append(pair)
        return site.add("state_offset", nn.ModuleList(offsets))


class _WithOffsets:
    """The ``sides`` of a mixer, with states that never change behind the others."""

    def __init__(self, mixer: BidirectionalMamba, offsets: nn.ParameterList, constant: bool) -> None:
        self.of_mixer, self.offsets = mixer.sides, offsets  # may be another method's already
        self.x_projs = [
            ReadTwice(mixer, name, side, constant) for name, side in zip(("x_proj", "x_proj_b"), self.of_mixer(), strict=True)
        ]

    def __call__(self) -> tuple[Side, Side]:
        forward, backward = self.of_mixer()
        return self._with_offset(forward, 0), self._with_offset(backward, 1)

    def _with_offset(self, side: Side, direction: int) -> Side:
        offset = self.offsets[direction]
        first = offset.new_zeros(1, *side.A.shape) if side.initial_state is None else side.initial_state
        return side._replace(
            x_proj=self.x_projs[direction],
            A=torch.cat([side.A, torch.zeros_like(offset)], dim=1),
            initial_state=torch.cat([first, offset.unsqueeze(0)], dim=2),
        )


class ReadTwice(nn.Module):
    """A mixer's ``x_proj`` with further states, which get nothing and are read by the same C, or one by the constant 1."""

    def __init__(self, mixer: BidirectionalMamba, name: str, side: Side, constant: bool) -> None:
        super().__init__()
        own = (
            None if side.x_proj is getattr(mixer, name) else side.x_proj
        )  # another method's, or whatever is there at the time
        self._held: tuple[Any, str, Any] = (mixer, name, own)  # no sub-modules: all have their names in the model
        self.states, self.constant = side.A.shape[1], constant

    @property
    def _x_proj(self) -> nn.Module:
        mixer, name, own = self._held
        x_proj: nn.Module = getattr(mixer, name) if own is None else own
        return x_proj

    def forward(self, x: Tensor) -> Tensor:
        return self._wider(self._x_proj(x), -1, 1.0)

    def effective_weight(self) -> Weights | str:
        """Weight and bias of the one map that this is."""
        own = effective_weight(self._x_proj)
        if isinstance(own, str):
            return own
        weight, bias = own
        if bias is None and self.constant:
            bias = weight.new_zeros(len(weight))
        return self._wider(weight, 0, 0.0), None if bias is None else self._wider(bias, 0, 1.0)

    def _wider(self, own: Tensor, dim: int, one: float) -> Tensor:
        """Step size, B and C (or the rows that make them) with those of the further states."""
        dt, B, C = torch.split(own, [self._held[0].dt_rank, self.states, self.states], dim)
        read = torch.full_like(C.narrow(dim, 0, 1), one) if self.constant else C
        return torch.cat([dt, B, torch.zeros_like(read), C, read], dim)
