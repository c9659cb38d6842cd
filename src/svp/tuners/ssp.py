"""SSP, its part for a single image: what the neighbors of a token hold is added to it in front of every block.

    v <- v + up(conv(down(v)))           down: embed_dim -> hidden_dim, conv: depthwise over the grid of tokens, up: back

One such module serves all blocks. v are the image tokens of the hidden stream as it enters a block, on their grid of rows and
columns, zeros around it; the class token is left alone. `up` starts at zero, so training starts at the plain backbone.

What trains: down, conv, up and the head. Without head, with d = embed_dim, h = hidden_dim, k = kernel_size:
(d h + h) + (k^2 h + h) + (h d + d);  50,240 for Vim-S with the defaults.

Source: Zhou et al., "State Space Prompting via Gathering and Spreading Spatio-Temporal Information for Video Understanding",
NeurIPS 2025, arXiv:2510.12160, the prompt of its Intra-Frame Gathering module. Its other part spreads what was gathered across
the frames of a video, which an image has not. The width and the absence of an activation are our choice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from svp.errors import InputError
from svp.models.blocks import Conv2d
from svp.ops import Prompts
from svp.tuners.attachment import Attachment
from svp.tuners.block_entry import BlockEntry, enter_block
from svp.tuners.layout import AddedTokens
from svp.tuners.method import Method, register_method


@register_method("ssp", title="SSP")
@dataclass(frozen=True)
class SSP(Method):
    """One module in front of all blocks; it is found at ``model.ssp``.

    Args:
        hidden_dim: Channels of the convolution.
        kernel_size: Rows and columns of its filters, an odd number.
    """

    default_lr = 1.5e-2
    default_weight_decay = 1e-4
    widths = ("hidden_dim",)

    hidden_dim: int = 64
    kernel_size: int = 3

    def __post_init__(self) -> None:
        if self.hidden_dim < 1:
            raise InputError(f"ssp: hidden_dim is {self.hidden_dim}, expected 1 or more")
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise InputError(f"ssp: kernel_size is {self.kernel_size}, expected an odd number")

    def attach(self, site: Attachment) -> Iterable[str]:
        model = site.model
        widest = max(3, 2 * max(model.patch_embed.grid_size) - 1)
        if self.kernel_size > widest:
            raise InputError(
                f"ssp: kernel_size is {self.kernel_size:,}, expected at most {widest}, which spans the model's whole grid"
            )
        gathering = Gathering(model.embed_dim, self, model.pos_embed)
        for layer in range(len(model.layers)):
            enter_block(site, layer, _Gather(gathering, model.patch_embed, site.added_tokens))
        return site.add("ssp", gathering)


class Gathering(nn.Module):
    """up(conv(down(tokens))) of image tokens (batch, rows * columns, embed_dim)."""

    def __init__(self, embed_dim: int, config: SSP, like: Tensor) -> None:
        super().__init__()
        factory: dict[str, Any] = dict(device=like.device, dtype=like.dtype)
        hidden, size = config.hidden_dim, config.kernel_size
        self.down = nn.Linear(embed_dim, hidden, **factory)
        self.conv = Conv2d(hidden, hidden, size, padding=size // 2, groups=hidden, **factory)
        self.up = nn.Linear(hidden, embed_dim, **factory)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        hidden = self.down(tokens).transpose(1, 2).unflatten(2, grid)
        return self.up(self.conv(hidden).flatten(2).transpose(1, 2))


class _Gather(BlockEntry):
    """The ``on_entry`` of a block."""

    def __init__(self, gathering: Gathering, patch_embed: Any, added_tokens: AddedTokens) -> None:
        self.gathering, self.patch_embed, self.added_tokens = gathering, patch_embed, added_tokens

    def __call__(self, hidden: Tensor) -> tuple[Tensor, Prompts]:
        return hidden + self._prompt(hidden), Prompts()

    def parts(self, hidden: Tensor) -> dict[str, Tensor]:
        return {"neighbors": self._prompt(hidden)}

    def _prompt(self, hidden: Tensor) -> Tensor:
        """What is added to every token; zero for the class token and for those of another method."""
        layout = self.added_tokens.in_blocks
        own = hidden if layout is None else layout.own(hidden)
        m = (own.shape[1] - 1) // 2
        image_tokens = torch.cat([own[:, :m], own[:, m + 1 :]], dim=1)
        prompt = self.gathering(image_tokens, self.patch_embed.grid_size).to(hidden.dtype)
        prompt = torch.cat([prompt[:, :m], torch.zeros_like(own[:, :1]), prompt[:, m:]], dim=1)
        if layout is None:
            return prompt
        return layout.insert(prompt, prompt.new_zeros(len(prompt), layout.num_tokens, prompt.shape[2]))
