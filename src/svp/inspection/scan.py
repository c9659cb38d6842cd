"""One scan of a mixer taken apart: its gates, its states, and the attention matrix that it is.

    h[t] = forget[t] * h[t-1] + update[t],          forget[t] = exp(dt[t] A),   update[t] = dt[t] B[t] x[t]
    y[t] = C[t] . h[t] + D x[t] = sum_s attention[t, s] x[s]         and what is left of an initial state

With t-1 the token that the scan meets before t, unrolling the first line gives, per channel,

    attention[t, s] = C[t] . (forget[t] * ... * forget[s+1] * dt[s] B[s])  for s not behind t,    + D  where s = t

Source of the last: Ali et al., "The Hidden Attention of Mamba Models", ACL 2025, arXiv:2403.01590, Section 4; there without D.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import dropwhile

import torch
import torch.nn.functional as F
from torch import Tensor

from svp.models import BidirectionalMamba
from svp.models.mixer import Side


@dataclass(frozen=True)
class Scan:
    """What one direction of a mixer scans, in float32 or wider; tokens stand where they stand in the image.

    Args:
        x: Input behind the convolution, (batch, length, d_inner).
        dt: Step size behind bias and softplus, (batch, length, d_inner).
        A: Decay, negative, (d_inner, d_state).
        B: (batch, length, d_state)
        C: (batch, length, d_state)
        D: Skip weight, (d_inner,).
        reverse: The scan runs from the last token to the first.
        initial_state: State in front of the first token, (1, d_inner, d_state); zero if None. No token's attention reads it.
    """

    x: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    reverse: bool
    initial_state: Tensor | None = None

    @property
    def order(self) -> range:
        """Tokens in the order in which the scan meets them."""
        length = self.x.shape[1]
        return range(length - 1, -1, -1) if self.reverse else range(length)

    def forget(self, token: int) -> Tensor:
        """exp(dt A) of a token, (batch, d_inner, d_state)."""
        return torch.exp(self.dt[:, token].unsqueeze(-1) * self.A)

    def states(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """(token, forget gate, state behind it), both (batch, d_inner, d_state), in the order of the scan."""
        state = self.x.new_zeros(1) if self.initial_state is None else self.initial_state
        for token in self.order:
            forget = self.forget(token)
            update = (self.dt[:, token] * self.x[:, token]).unsqueeze(-1) * self.B[:, token].unsqueeze(1)
            state = forget * state + update
            yield token, forget, state

    def output(self) -> Tensor:
        """y, with the skip and in front of the gate, (batch, length, d_inner)."""
        y = self.D * self.x
        for token, _, state in self.states():
            y[:, token] += (state @ self.C[:, token].unsqueeze(-1)).squeeze(-1)
        return y

    def from_start(self) -> Tensor:
        """What the tokens read of the initial state, (batch, length, d_inner)."""
        y = torch.zeros_like(self.x)
        if self.initial_state is not None:
            left = self.initial_state
            for token in self.order:
                left = self.forget(token) * left
                y[:, token] = (left @ self.C[:, token].unsqueeze(-1)).squeeze(-1)
        return y

    def attention(self, rows: Sequence[int]) -> Tensor:
        """Rows of the attention matrix, of every channel, (batch, rows, length, d_inner)."""
        batch, length, d_inner = self.x.shape
        matrix = self.x.new_zeros(batch, len(rows), length, d_inner)
        # what a row's token reads from the state behind the token at hand, (batch, rows, d_inner, d_state)
        reads = self.x.new_zeros(batch, len(rows), *self.A.shape)
        for token in dropwhile(lambda token: token not in rows, reversed(self.order)):  # nobody reads from later ones
            for row in [row for row, wanted in enumerate(rows) if wanted == token]:
                reads[:, row] = self.C[:, token].unsqueeze(1)
                matrix[:, row, token] = self.D
            read = (reads * self.B[:, token, None, None]).sum(dim=-1)  # few numbers: a call of BLAS would wake all threads
            matrix[:, :, token] += read * self.dt[:, token].unsqueeze(1)
            reads = reads * self.forget(token).unsqueeze(1)
        return matrix


def open_mixer(mixer: BidirectionalMamba, xz: Tensor) -> tuple[Scan, Scan, Tensor]:
    """Both scans of a mixer, and the gate SiLU(z) / 2 that their outputs share, (batch, length, d_inner).

    The mixer's sub-modules are called as modules, in the dtype of its weights, outside of any autocast.

    Args:
        mixer: The mixer.
        xz: What its first projection gave.
    """
    device = xz.device.type
    plain = torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
    with plain:
        x, z = xz.to(mixer.A_log.dtype).chunk(2, dim=-1)
        forward, backward = (
            _open_scan(mixer, x, side, reverse) for side, reverse in zip(mixer.sides(), (False, True), strict=True)
        )
        return forward, backward, F.silu(_wide(z)) / 2


def _open_scan(mixer: BidirectionalMamba, x: Tensor, side: Side, reverse: bool) -> Scan:
    x, raw, A, B, C = (_wide(t) for t in mixer.scan_inputs(x, side))
    initial_state = None if side.initial_state is None else _wide(side.initial_state)
    return Scan(x, F.softplus(raw), A, B, C, _wide(side.D), reverse, initial_state)


def _wide(t: Tensor) -> Tensor:
    return t.to(torch.promote_types(t.dtype, torch.float32))
