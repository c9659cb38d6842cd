"""Affix-tuning: learned tokens enter every mixer beside the others, and what becomes of them is dropped behind it.

    mixer_l(u) <- own(mixer_l(insert(u, P_l)))          u: the normalized tokens that mixer l gets

Both scans pass over the added tokens, so these set the state that the model's own tokens meet; they have no residual and never
reach another block. Where they stand is up to `position`.

What trains: P and the head. Without head, with d = embed_dim, L = depth, p = num_tokens:  L p d;  221,184 for Vim-S with the
defaults, as in MambaPEFT's table ("without projection": 230 thousand with a head of about 9). The projection of that table,
of 117 million values, is left out.

Source: Yoshimura et al., "MambaPEFT", ICLR 2025, arXiv:2411.03855.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import trunc_normal_
from torch import Tensor, nn

from svp.errors import InputError
from svp.tuners.attachment import Attachment
from svp.tuners.layout import Layout, Position, check_num_tokens, check_position
from svp.tuners.method import Method, register_method


@register_method("affix", title="affix-tuning")
@dataclass(frozen=True)
class Affix(Method):
    """Tokens that only the mixers see; they are found at ``model.affix.tokens``, (depth, num_tokens, embed_dim),
    where they stand at ``model.affix.layout``.

    Args:
        num_tokens: Added tokens per mixer.
        position: Where they stand, see ``svp.tuners.layout.Layout``.
    """

    default_lr = 1e-2
    default_weight_decay = 1e-4

    num_tokens: int = 24
    position: Position = "prefix"

    def __post_init__(self) -> None:
        if self.num_tokens < 1:
            raise InputError(f"affix: num_tokens is {self.num_tokens}, expected 1 or more")
        check_position("affix", self.position)

    def check_backbone(self, model: nn.Module) -> None:
        super().check_backbone(model)
        check_num_tokens("affix", self.num_tokens, model)

    def attach(self, site: Attachment) -> Iterable[str]:
        model, config = site.model, self
        layout, like = Layout(config.num_tokens, config.position), model.pos_embed
        affix = nn.Module()
        affix.layout = layout  # type: ignore[assignment]
        shape = (len(model.layers), config.num_tokens, model.embed_dim)
        affix.tokens = nn.Parameter(torch.empty(shape, device=like.device, dtype=like.dtype))
        trunc_normal_(affix.tokens, std=0.02)
        names = site.add("affix", affix)
        site.added_tokens.add_to_mixers(layout)
        for layer, block in enumerate(model.layers):
            site.hook(block.mixer.register_forward_pre_hook(_Insert(affix, layer, layout)))
            site.hook(block.mixer.register_forward_hook(_Drop(layout)))
        return names


class _Insert:
    """Forward pre-hook of mixer `layer`."""

    def __init__(self, affix: nn.Module, layer: int, layout: Layout) -> None:
        self.affix, self.layer, self.layout = affix, layer, layout

    def __call__(self, mixer: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (u,) = args
        tokens: Any = self.affix.tokens
        return (self.layout.insert(u, tokens[self.layer].expand(u.shape[0], -1, -1).to(u.dtype)),)


class _Drop:
    """Forward hook of every mixer."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def __call__(self, mixer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return self.layout.own(output)
