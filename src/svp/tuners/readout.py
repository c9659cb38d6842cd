"""Readout: what every block holds is read into the feature that the head gets, beside a low-rank update of `in_proj`.

    p_l     = [n(c), n(mean t), n(mean i t), n(mean j t), n(mean i j t)]     (5 d,), of the residual stream behind block l
    q_l     = 0.1 (p_l - m_l) / sqrt(s_l^2 + 0.01)                           m_l, s_l (5 d,), of the training images
    tokens <- norm_f(...) + U sum_l V_l q_l                                  V_l (k, 5 d), U (d, k)
    x, z    = (W + 2 B A) u                                                  B (2 E, r), A (r, d)

c is the class token, t an image token, i and j are its row and column counted from the middle of the grid, and
n(v) = v / sqrt(mean(v^2) + 1e-5). So p_l is what the class token holds, what the image holds on average, and how that
changes from top to bottom, from left to right and across both, on a grid of any size. What is read is added to every token,
so that each way of pooling gets it.

The head of a Vim sees the class token behind the last block alone. What a block knows of edges, colors and places reaches it
only as far as later blocks carry it, and a gradient reaches a block only through all that follow. Here the feature is linear
in what each block holds.

Most of what a block holds is alike in all images. So up to 500 training images are looked at before anything trains: m_l and
s_l are mean and standard deviation over them, of what the plain backbone holds, and the rows of [V_1 ... V_L] start at the k
directions in which their q differ most, each scaled to a variance of one. 0.1 sets how far a step of V moves what is read,
relative to where it starts. U and B start at zero, so training starts at the plain backbone. Without images m is 0,
0.1 / sqrt(s^2 + 0.01) is 1, and V starts random.

What trains: U, V, A, B and the head. Without head, with d = embed_dim, E = d_inner, L = depth, k = read_dim, r = rank:
k (5 L d + d) + L r (d + 2 E);  1,294,848 for Vim-S with the defaults. The 10 L d values of m and s are stored beside. It
cannot be merged: no weight of the backbone reads what a block holds.

Source: this project. That features of all layers help where a task is far from the pre-training was shown by Evci et al.,
"Head2Toe", ICML 2022, arXiv:2201.03529, which selects among them for a larger head; the update is LoRA's, arXiv:2106.09685.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svp.errors import InputError
from svp.models import VisionMamba
from svp.models.blocks import add_residual
from svp.models.mixer import without_autocast
from svp.tuners.attachment import Attachment
from svp.tuners.lora import LoRA
from svp.tuners.method import Method, check_finite_features, register_method

_READ_SCALE = 0.1


@register_method("readout", title="Readout")
@dataclass(frozen=True)
class Readout(Method):
    """Maps of what every block holds, found at ``model.readout``, and a ``LowRankUpdate`` in the place of every `in_proj`.

    They start from training images: ``svp train`` shows them some, ``svp.tune(model, "readout", images=batches)`` does so in
    Python.

    Args:
        read_dim: Width of what is read.
        rank: Rank of the update of `in_proj`; 0 for none.
    """

    default_lr = 3e-3
    default_weight_decay = 1e-4
    widths = ("read_dim", "rank")
    num_images = 500

    read_dim: int = 12
    rank: int = 16

    def __post_init__(self) -> None:
        if self.read_dim < 1:
            raise InputError(f"readout: read_dim is {self.read_dim}, expected 1 or more")
        if self.rank < 0:
            raise InputError(f"readout: rank is {self.rank}, expected 0 or more")

    def fitted(self, model: nn.Module, images: Iterable[Tensor]) -> tuple[Method, dict[str, Tensor]]:
        vim = cast(VisionMamba, model)
        p = torch.cat([_behind_blocks(vim, batch).float().cpu() for batch in images])
        check_finite_features(self.name, p)
        variance, center = torch.var_mean(p, dim=0, correction=0)
        gain = _READ_SCALE * (variance + 0.01).rsqrt()
        values = {"readout.center": center, "readout.gain": gain}
        if len(p) > self.read_dim:
            start = principal_maps((p - center) * gain, self.read_dim)
            values |= {f"readout.read.{number}.weight": weight for number, weight in enumerate(start)}
        return self, values

    def attach(self, site: Attachment) -> Iterable[str]:
        updated = LoRA(["in_proj"], self.rank, 2.0 * self.rank).attach(site) if self.rank else ()
        maps = ReadMaps(site.model, self.read_dim)
        reader = _Reader(site.model, maps)
        site.replace("run_together", reader.run_together)
        site.replace("final_norm", reader.final_norm)
        return [*updated, *site.add("readout", maps)]


class ReadMaps(nn.Module):
    """What is read of every block, and where it leads.

    Attributes:
        center: m, (depth, 5 embed_dim).
        gain: 0.1 / sqrt(s^2 + 0.01), (depth, 5 embed_dim).
        read: V, one map per block, (batch, 5 embed_dim) -> (batch, read_dim).
        write: U, (batch, read_dim) -> (batch, embed_dim).
    """

    center: Tensor
    gain: Tensor

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
        self.register_buffer("center", like.new_zeros(depth, 5 * width))
        self.register_buffer("gain", like.new_ones(depth, 5 * width))

    def forward(self, held: Tensor, number: int) -> Tensor:
        """V q of a block by its number: p (batch, 5 embed_dim) -> (batch, read_dim)."""
        found: Tensor = self.read[number]((held.to(self.gain.dtype) - self.center[number]) * self.gain[number])
        return found


class _Reader:
    """The ``run_together`` and ``final_norm`` of a model: reads behind every block, writes behind the last norm."""

    def __init__(self, model: VisionMamba, maps: ReadMaps) -> None:
        self.model, self.maps = model, maps
        self.run_plain, self.norm_plain = model.run_together, model.final_norm

    def run_together(
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
            found = self.maps(held(self.model, self.model.own_tokens(add_residual(hidden, residual))), number)
            number, read = number + 1, found if read is None else read + found
        return hidden, residual, number, read

    def final_norm(self, hidden: Tensor, residual: Tensor | None, number: int, read: Tensor) -> Tensor:
        tokens = self.norm_plain(hidden, residual)
        written: Tensor = self.maps.write(read)
        return tokens + written.unsqueeze(1).to(tokens.dtype)


def held(model: VisionMamba, tokens: Tensor) -> Tensor:
    """p of a block: tokens of its residual stream (batch, num_patches + 1, embed_dim) -> (batch, 5 embed_dim)."""
    with without_autocast(tokens.device.type):
        pooled = pooling(model, tokens) @ tokens
        return F.rms_norm(pooled, pooled.shape[-1:], eps=1e-5).flatten(1)


def _behind_blocks(model: VisionMamba, images: Tensor) -> Tensor:
    """p of all blocks, (batch, depth, 5 embed_dim)."""
    m, found = model.cls_position, []
    for patches, cls_token in model.forward_intermediates(
        images, return_prefix_tokens=True, output_fmt="NLC", intermediates_only=True
    ):
        found.append(held(model, torch.cat([patches[:, :m], cls_token, patches[:, m:]], dim=1)))
    return torch.stack(found, dim=1)


def principal_maps(q: Tensor, number: int) -> Tensor:
    """The principal directions of centered `q`, (images, depth, width), scaled so that what each reads has a variance of one.

    Returns:
        (depth, number, width)
    """
    flat = q.flatten(1)
    squares, of_images = torch.linalg.eigh(flat @ flat.T)  # of images, which are fewer than values
    squares, of_images = squares[-number:], of_images[:, -number:]
    squares = squares.clamp_min(1e-4 * squares[-1] + 1e-6)  # copies of images make it singular
    directions = (of_images / squares * len(flat) ** 0.5).T @ flat
    return directions.unflatten(1, q.shape[1:]).transpose(0, 1).contiguous()


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
