"""Initial state: every scan starts at a learned state instead of zero.

    h = h0 before the first token that the scan meets, h0 (d_inner, d_state) for every direction of every mixer

h0 starts at zero, so training starts at the plain backbone. Behind a token the effect of h0 is what its forget gates leave of
it: the first tokens of either direction see most of it, the class token in the middle what half the sequence has left.
The scan is as long as before, and runs on the fused kernels.

What trains: h0 and the head. Without head, with E = d_inner, N = d_state, L = depth:  2 L E N;  589,824 for Vim-S, as many as
``A`` has.

Source: Young, "S0 Tuning", 2026, arXiv:2604.01168 (there for hybrid language models, with an L2 penalty on h0 and a factor
that is chosen after training; here weight decay is the penalty, and there is no factor). It is also a baseline of Kang et al.,
"State-offset Tuning", ACL 2025, arXiv:2503.03499.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import nn

from svp.errors import InputError
from svp.models.mixer import Side
from svp.tuners.attachment import Attachment
from svp.tuners.method import Method, register_method


@register_method("initial_state", title="initial state")
@dataclass(frozen=True)
class InitialState(Method):
    """States to start from; they are found at ``model.first_states[layer][direction]``, direction 1 the backward one."""

    default_lr = 3e-2
    default_weight_decay = 1e-4

    def attach(self, site: Attachment) -> Iterable[str]:
        states = []
        for layer, block in enumerate(site.model.layers):
            sides = block.mixer.sides
            if any(side.initial_state is not None for side in sides()):
                raise InputError("initial_state: another method sets the state already; name initial_state before it")
            pair = nn.ParameterList(nn.Parameter(side.A.detach().new_zeros(side.A.shape)) for side in sides())
            site.replace(f"layers.{layer}.mixer.sides", _FromStates(sides, pair))
            states.append(pair)
        return site.add("first_states", nn.ModuleList(states))


class _FromStates:
    """The ``sides`` of a mixer, which start at learned states."""

    def __init__(self, of_mixer: Callable[[], tuple[Side, Side]], states: nn.ParameterList) -> None:
        self.of_mixer, self.states = of_mixer, states

    def __call__(self) -> tuple[Side, Side]:
        forward, backward = self.of_mixer()
        return (
            forward._replace(initial_state=self.states[0].unsqueeze(0)),
            backward._replace(initial_state=self.states[1].unsqueeze(0)),
        )
