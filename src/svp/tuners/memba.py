"""Memba: low-rank updates of both projections, and a gate that remembers earlier parts of the sequence.

    z = z_1, ..., z_T                                    the gate's half of in_proj's output, cut into T chunks of equal length
    u_i = leak * r(u_{i-1}) + z_i,    z <- u             r(u) = u where u <= threshold, else 0

token by token of a chunk and channel by channel: a leaky integrating membrane, reset where it is above the threshold. u_0 is
the mean over the chunks of the u of the layer before, zero in the first layer (and without `transfer`). The scan itself is
left alone and runs on the fused kernels. As the gate has another value from the second chunk on, training does **not** start
at the plain backbone; with leak 0 it is LoRA.

What trains: A and B of both projections and the head. Without head, with d = embed_dim, E = d_inner, L = depth, r = rank:
L r ((d + 2 E) + (E + d));  4,718,592 for Vim-S at rank 64, as the paper's table has it (4,718 thousand).

Source: Lee et al., "Memba", ICLR 2026, arXiv:2506.18184. The description leaves open, and we choose: the values of T, leak and
threshold; that what is gated by is u in front of its reset; that both directions share the one pass over the chunks, from the
first patch to the last, the class token among them; zeros behind the last token of the last chunk; that no gradient goes
through the transfer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svp.errors import InputError
from svp.tuners.attachment import Attachment
from svp.tuners.low_rank import LowRankUpdate
from svp.tuners.method import Method, register_method


@register_method("memba", title="Memba")
@dataclass(frozen=True)
class Memba(Method):
    """A ``LowRankUpdate`` stands in the place of every `in_proj` and `out_proj`, a ``Membrane`` behind every `in_proj`.

    Args:
        rank: Rank of the updates.
        alpha: The updates are weighed by alpha / rank.
        dropout: Dropout in front of A, 0 <= dropout < 1.
        chunks: Chunks that the sequence is cut into.
        leak: What is kept of the membrane from chunk to chunk, 0 <= leak <= 1.
        threshold: Above it a membrane is reset to zero.
        transfer: A layer starts at the mean membrane of the layer before.
    """

    default_lr = 1e-2
    default_weight_decay = 1e-4
    widths = ("rank",)

    rank: int = 64
    alpha: float = 64.0
    dropout: float = 0.0
    chunks: int = 4
    leak: float = 0.5
    threshold: float = 1.0
    transfer: bool = True

    def __post_init__(self) -> None:
        for name in ("rank", "chunks"):
            if getattr(self, name) < 1:
                raise InputError(f"memba: {name} is {getattr(self, name)}, expected 1 or more")
        if self.alpha == 0 or not math.isfinite(self.alpha):
            raise InputError(f"memba: alpha is {self.alpha}, expected a number other than 0")
        if not 0 <= self.dropout < 1:
            raise InputError(f"memba: dropout is {self.dropout}, expected 0 <= dropout < 1")
        if not 0 <= self.leak <= 1:
            raise InputError(f"memba: leak is {self.leak}, expected 0 to 1")

    def attach(self, site: Attachment) -> Iterable[str]:
        names: list[str] = []
        before: Membrane | None = None
        for layer, block in enumerate(site.model.layers):
            for projection in ("in_proj", "out_proj"):
                path = f"layers.{layer}.mixer.{projection}"
                base = site.model.get_submodule(path)
                if not isinstance(base, nn.Linear):
                    raise InputError(f"the methods of {site.label!r} cannot be combined: two of them change model.{path}")
                names += site.wrap(path, LowRankUpdate(base, self.rank, self.alpha, self.dropout))
            membrane = Membrane(self, before if self.transfer else None)
            site.hook(block.mixer.in_proj.register_forward_hook(membrane))
            before = membrane
        return names


class Membrane:
    """Forward hook of an ``in_proj``: puts the membrane of the gate in the place of the gate.

    Attributes:
        mean: Its mean over the chunks, (batch, tokens of a chunk, d_inner), for the next layer; kept if there is one.
    """

    def __init__(self, config: Memba, before: Membrane | None) -> None:
        self.config, self.before = config, before
        self.mean: Tensor | None = None

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...], xz: Tensor) -> Tensor:
        x, z = xz.chunk(2, dim=-1)
        length = z.shape[1]
        size = math.ceil(length / self.config.chunks)
        pieces = torch.split(F.pad(z, (0, 0, 0, -length % size)), size, dim=1)
        u, membranes = None if self.before is None else self.before.mean, []
        for piece in pieces:
            if u is not None:
                piece = piece + self.config.leak * torch.where(u <= self.config.threshold, u, 0).to(piece.dtype)
            u = piece
            membranes.append(u)
        if self.config.transfer:
            self.mean = torch.stack(membranes).mean(0).detach()
        return torch.cat([x, torch.cat(membranes, dim=1)[:, :length]], dim=-1)
