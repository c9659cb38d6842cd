"""Readout: what every block holds is read into the feature that the head gets, beside a low-rank update of `in_proj`.

    p_l     = [n(c), n(mean t), n(mean i t), n(mean j t), n(mean i j t)]     (5 d,), of the residual stream behind block l
    tokens <- norm_f(...) + U sum_l V_l p_l                                  V_l (k, 5 d), U (d, k)
    x, z    = (W + 2 B A) u                                                  B (2 E, r), A (r, d)

c is the class token, t an image token, i and j are its row and column counted from the middle of the grid, and
n(v) = v / sqrt(mean(v^2) + 1e-5). So p_l is what the class token holds, what the image holds on average, and how that
changes from top to bottom, from left to right and across both, on a grid of any size. What is read is added to every token,
so that each way of pooling gets it.

The head of a Vim sees the class token behind the last block alone. What a block knows of edges, colors and places reaches it
only as far as later blocks carry it, and a gradient reaches a block only through all that follow. Here the feature is linear
in what each block holds. U and B start at zero, so training starts at the plain backbone.

What trains: U, V, A, B and the head. Without head, with d = embed_dim, E = d_inner, L = depth, k = read_dim, r = rank:
k (5 L d + d) + L r (d + 2 E);  1,294,848 for Vim-S with the defaults. It cannot be merged: no weight of the backbone reads
what a block holds.

Source: this project. That features of all layers help where a task is far from the pre-training was shown by Evci et al.,
"Head2Toe", ICML 2022, arXiv:2201.03529, which selects among them for a larger head; the update is LoRA's, arXiv:2106.09685.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svp.errors import InputError
from svp.models import VisionMamba
from svp.models.blocks import add_residual
from svp.models.mixer import without_autocast
from svp.tuners.attachment import Attachment
from svp.tuners.lora import LoRA
from svp.tuners.method import Method, register_method


@register_method("readout", title="Readout")
@dataclass(frozen=True)
class Readout(Method):
    """Maps of what every block holds, found at ``model.readout``, and a ``LowRankUpdate`` in the place of every `in_proj`.

    Args:
        read_dim: Width of what is read.
        rank: Rank of the update of `in_proj`; 0 for none.
    """

    default_lr = 3e-3
    default_weight_decay = 1e-4
    widths = ("read_dim", "rank")

    read_dim: int = 12
    rank: int = 16

    def __post_init__(self) -> None:
        if self.read_dim < 1:
            raise InputError(f"readout: read_dim is {self.read_dim}, expected 1 or more")
        if self.rank < 0:
            raise InputError(f"readout: rank is {self.rank}, expected 0 or more")

    def attach(self, site: Attachment) -> Iterable[str]:
        updated = LoRA(["in_proj"], self.rank, 2.0 * self.rank).attach(site) if self.rank else ()
        maps = ReadMaps(site.model, self.read_dim)
        reader = _Reader(site.model, maps)
        site.replace("run_blocks", reader.run_blocks)
        site.replace("final_norm", reader.final_norm)
        return [*updated, *site.add("readout", maps)]


class ReadMaps(nn.Module):
    """What is read of every block, and where it leads.

    Attributes:
        read: V, one map per block, (batch, 5 embed_dim) -> (batch, read_dim).
        write: U, (batch, read_dim) -> (batch, embed_dim).
    """

    def __init__(self, model: VisionMamba, read_dim: int) -> None:
        super().__init__()
        like = model.pos_embed
        factory: dict[str, Any] = dict(bias=False, device=like.device, dtype=like.dtype)
        depth, width = len(model.layers), model.embed_dim
        maps = [nn.Linear(5 * width, read_dim, **factory) for _ in range(depth)]
        for each in maps:
            bound = (5 * width * depth) ** -0.5  # together they start as one map of all blocks would
            nn.init.uniform_(each.weight, -bound, bound)
        self.read = nn.ModuleList(maps)
        self.write = nn.Linear(read_dim, width, **factory)
        nn.init.zeros_(self.write.weight)


class _Reader:
    """The ``run_blocks`` and ``final_norm`` of a model: reads behind every block, writes behind the last norm."""

    def __init__(self, model: VisionMamba, maps: ReadMaps) -> None:
        self.model, self.maps = model, maps
        self.run_plain, self.norm_plain = model.run_blocks, model.final_norm

    def run_blocks(
        self,
        blocks: list[Any],
        hidden: Tensor,
        residual: Tensor | None = None,
        number: int = 0,
        read: Tensor | None = None,
    ) -> tuple[Any, ...]:
        """Beside the streams: how many blocks were read, and the sum of what was, (batch, read_dim)."""
        for block in blocks:
            hidden, residual = self.run_plain([block], hidden, residual)
            found = self._read(number, self.model.own_tokens(add_residual(hidden, residual)))
            number, read = number + 1, found if read is None else read + found
        return hidden, residual, number, read

    def _read(self, number: int, tokens: Tensor) -> Tensor:
        with without_autocast(tokens.device.type):
            pooled = pooling(self.model, tokens) @ tokens
            pooled = F.rms_norm(pooled, pooled.shape[-1:], eps=1e-5).flatten(1)
        found: Tensor = self.maps.read[number](pooled.to(self.maps.write.weight.dtype))
        return found

    def final_norm(self, hidden: Tensor, residual: Tensor | None, number: int, read: Tensor) -> Tensor:
        tokens = self.norm_plain(hidden, residual)
        written: Tensor = self.maps.write(read)
        return tokens + written.unsqueeze(1).to(tokens.dtype)


def pooling(model: VisionMamba, like: Tensor) -> Tensor:
    """Weights of the tokens in what is read: the class token, the mean, the trends along rows, along columns and across both.

    Returns:
        (5, num_patches + 1), in dtype and on the device of `like`.
    """
    rows, columns = model.patch_embed.grid_size
    m, count = model.cls_position, rows * columns
    one = like.new_ones(1)

    def centered(size: int) -> Tensor:
        return torch.arange(size, device=like.device, dtype=like.dtype) - (size - 1) / 2

    def over_images(row: Tensor) -> Tensor:
        return torch.cat([row[:m], 0 * one, row[m:]]) / count

    down, across = centered(rows).repeat_interleave(columns), centered(columns).repeat(rows)
    cls_token = F.pad(one, (m, count - m))
    return torch.stack([cls_token, over_images(one.expand(count)), *map(over_images, (down, across, down * across))])
