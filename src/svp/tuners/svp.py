"""Selective Visual Prompting (SVP): add to every image token, before every block, a prompt made from that very token.

    inner_l(v) = SiLU(W2_l (W1_l v + b1_l) + b2_l)            one per layer l, hidden width `hidden_dim`
    cross_g(v) = SiLU(Wc_g v + bc_g)                          one per group of `shared_layers` layers, g = l // shared_layers
    v <- v + alpha_l * drop(inner_l(v)) + beta_g * drop(cross_g(v))

v is a token of the hidden stream as it enters block l (for l > 0 the mixer output of block l-1 before it joins the residual);
the class token is not prompted; alpha and beta are per channel and start at zero (`initial_scale`), so training starts at the
plain backbone.

What trains: both kinds of prompters, alpha, beta and the head. Without head, with d = embed_dim, L = depth, r = hidden_dim,
G = ceil(L / shared_layers):  L (2 d r + d + r) + L d  +  G (d^2 + d) + G d;  1,644,288 for Vim-S with the defaults.

Source: Yao et al., "Selective Visual Prompting in Vision Mamba", AAAI 2025, arXiv:2412.08947, Section 4; released code
zhoujiahuan1991/AAAI2025-SVP.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor, nn

from svp.errors import InputError
from svp.models import VisionMamba
from svp.models.effective_weight import effective_weight, touched
from svp.models.mixer import Linear
from svp.ops import LinearPrompt, Prompt, Prompts
from svp.tuners.attachment import Attachment
from svp.tuners.block_entry import BlockEntry, enter_block
from svp.tuners.layout import AddedTokens, Layout
from svp.tuners.method import Method, register_method


@register_method("svp", title="SVP")
@dataclass(frozen=True)
class SVP(Method):
    """Selective Visual Prompting; the prompters are found at ``model.svp``.

    Args:
        shared_layers: Consecutive layers that share a cross prompter, 1 to depth; the last group may be shorter.
        hidden_dim: Hidden width of the inner prompters.
        cross: Use the cross prompters.
        inner: Use the inner prompters.
        cross_prompt: "paper", every token's cross prompt is made from the token itself; "official", tokens behind the class
            token get theirs from the already prompted tokens in front of it, as the released code does (for weights trained
            with it; needs an even number of patches).
        scaling: Weigh the prompts by alpha and beta; without, they are added as they are (an ablation: training does not start
            at the plain backbone then).
        initial_scale: Where all of alpha and beta start. At 0, as in the released code, the prompters themselves get no
            gradient in the first step; elsewhere training does not start at the plain backbone.
        prompt_cls_token: Prompt the class token too (an ablation; with `cross_prompt` "paper" only).
        dropout: Dropout on the prompts, 0 <= dropout < 1.
        simam: Weigh the input image by parameter-free attention (SimAM, lambda 1e-3), as the release does for some data sets.
        head: "linear", or "two_linear": two linear maps with half the width between them and no nonlinearity.
    """

    default_lr = 5e-3
    default_weight_decay = 1e-4
    widths = ("hidden_dim",)

    shared_layers: int = 8
    hidden_dim: int = 64
    cross: bool = True
    inner: bool = True
    cross_prompt: Literal["paper", "official"] = "paper"
    scaling: bool = True
    initial_scale: float = 0.0
    prompt_cls_token: bool = False
    dropout: float = 0.0
    simam: bool = False
    head: Literal["linear", "two_linear"] = "linear"

    def __post_init__(self) -> None:
        for name in ("shared_layers", "hidden_dim"):
            if getattr(self, name) < 1:
                raise InputError(f"svp: {name} is {getattr(self, name)}, expected 1 or more")
        if not (self.cross or self.inner):
            raise InputError("svp: cross and inner are both off, nothing is left to train but the head (method 'linear')")
        if not math.isfinite(self.initial_scale):
            raise InputError(f"svp: initial_scale is {self.initial_scale}, expected a finite number")
        if self.initial_scale and not self.scaling:
            raise InputError(f"svp: initial_scale is {self.initial_scale}, but scaling is off, there are no scales to start")
        if not 0 <= self.dropout < 1:
            raise InputError(f"svp: dropout is {self.dropout}, expected 0 <= dropout < 1")
        for name, choices in (("cross_prompt", ("paper", "official")), ("head", ("linear", "two_linear"))):
            if getattr(self, name) not in choices:
                raise InputError(f"svp: {name} is {getattr(self, name)!r}, expected {' or '.join(map(repr, choices))}")
        if self.prompt_cls_token and self.cross_prompt == "official":
            raise InputError("svp: prompt_cls_token is on, which cross_prompt 'official' has no place for; use 'paper'")

    def attach(self, site: Attachment) -> Iterable[str]:
        model, config = site.model, self
        depth = len(model.layers)
        if config.shared_layers > depth:
            raise InputError(f"svp: shared_layers is {config.shared_layers}, expected 1 to the model's depth {depth}")
        if config.cross_prompt == "official" and model.patch_embed.num_patches % 2:
            raise InputError(_needs_even_patches(model.patch_embed.num_patches))
        if config.head == "two_linear":
            site.replace("head", _two_linear_head(model))
        prompters = Prompters(model.embed_dim, depth, config, like=model.pos_embed)
        names = site.add("svp", prompters)
        for layer in range(depth):
            enter_block(site, layer, _PromptLayer(prompters, layer, site.added_tokens))
        if config.simam:
            site.hook(model.patch_embed.register_forward_pre_hook(_weigh_input))
        return names

    def rename_released(self, name: str) -> str:
        """Our name for a parameter of the released SVP code; any other name comes back as it is."""
        for pattern, ours in _RELEASED_NAMES:
            name, count = re.subn(pattern, ours, name)
            if count:
                break
        return name


class Prompters(nn.Module):
    """The prompters of all layers and their scales.

    Attributes:
        inner_prompters: One per layer.
        cross_prompters: One per group of layers.
        inner_scale: alpha, (depth, embed_dim).
        cross_scale: beta, (groups, embed_dim).
    """

    def __init__(self, embed_dim: int, depth: int, config: SVP, like: Tensor) -> None:
        super().__init__()
        self.embed_dim, self.config = embed_dim, config
        factory: dict[str, Any] = dict(device=like.device, dtype=like.dtype)
        self.dropout = nn.Dropout(config.dropout)
        if config.inner:
            self.inner_prompters = nn.ModuleList(
                nn.Sequential(
                    Linear(embed_dim, config.hidden_dim, **factory),
                    Linear(config.hidden_dim, embed_dim, **factory),
                )
                for _ in range(depth)
            )
            if config.scaling:
                self.inner_scale = nn.Parameter(torch.full((depth, embed_dim), config.initial_scale, **factory))
        if config.cross:
            groups = math.ceil(depth / config.shared_layers)
            self.cross_prompters = nn.ModuleList(Linear(embed_dim, embed_dim, **factory) for _ in range(groups))
            if config.scaling:
                self.cross_scale = nn.Parameter(torch.full((groups, embed_dim), config.initial_scale, **factory))

    def inner_prompt(self, layer: int, tokens: Tensor) -> Tensor:
        """alpha_l * drop(inner_l(tokens)), (batch, length, embed_dim)."""
        prompt = self.dropout(F.silu(self.inner_prompters[layer](tokens)))
        return self.inner_scale[layer] * prompt if self.config.scaling else prompt

    def cross_prompt(self, layer: int, tokens: Tensor) -> Tensor:
        """beta_g * drop(cross_g(tokens)), (batch, length, embed_dim)."""
        group = layer // self.config.shared_layers
        prompt = self.dropout(F.silu(self.cross_prompters[group](tokens)))
        return self.cross_scale[group] * prompt if self.config.scaling else prompt

    def forward(self, layer: int, tokens: Tensor, layout: Layout | None = None) -> Tensor:
        """Prompt the tokens that enter block `layer`.

        Args:
            layer: Number of the block, from 0.
            tokens: (batch, length, embed_dim), the class token in the middle of the model's own tokens.
            layout: Where among them tokens stand that another method added; these are not prompted.
        """
        if self.config.cross and self.config.cross_prompt == "official":
            if layout:
                raise InputError("svp: cross_prompt 'official' has no place for the tokens of another method; use 'paper'")
            return self._forward_official(layer, tokens, (tokens.shape[1] - 1) // 2)
        prompt = self.inner_prompt(layer, tokens) if self.config.inner else None
        if self.config.cross:
            cross = self.cross_prompt(layer, tokens)
            prompt = cross if prompt is None else prompt + cross
        assert prompt is not None
        prompted = self._prompted(tokens, layout)
        return tokens + (prompt if prompted is None else torch.where(prompted[:, None], prompt, 0))

    def are_simple(self) -> bool:
        """Whether what ``forward`` adds is a plain sum of ``prompts``: of the tokens as they came, nothing dropped."""
        official = self.config.cross and self.config.cross_prompt == "official"
        return not official and not (self.training and self.config.dropout)

    def prompts(self, layer: int, tokens: Tensor, layout: Layout | None = None) -> Prompts:
        """What ``forward`` adds to the tokens, if the prompts ``are_simple``; arguments as there."""
        config = self.config
        terms: list[Prompt | LinearPrompt] = []
        if config.inner:
            scale = self.inner_scale[layer] if config.scaling else None
            terms.append(_prompt_of(self.inner_prompters[layer], tokens, scale))
        if config.cross:
            group = layer // config.shared_layers
            scale = self.cross_scale[group] if config.scaling else None
            terms.append(_prompt_of(self.cross_prompters[group], tokens, scale))
        return Prompts(terms, self._prompted(tokens, layout))

    def parts(self, layer: int, tokens: Tensor, layout: Layout | None = None) -> dict[str, Tensor]:
        """What ``forward`` adds to the tokens, "inner" and "cross" apart; arguments as there. Zero for tokens not prompted."""
        config, source = self.config, tokens
        if config.cross and config.cross_prompt == "official":  # behind the class token: what stands before it, prompted
            m = (tokens.shape[1] - 1) // 2
            source = torch.cat([tokens[:, : m + 1], self._forward_official(layer, tokens, m)[:, :m]], dim=1)
        nothing, prompted = torch.zeros_like(tokens), self._prompted(tokens, layout)
        parts = {
            "inner": self.inner_prompt(layer, tokens) if config.inner else nothing,
            "cross": self.cross_prompt(layer, source) if config.cross else nothing,
        }
        return {name: part if prompted is None else part * prompted[:, None] for name, part in parts.items()}

    def scales(self, layer: int) -> dict[str, Tensor]:
        """alpha and beta of a layer, (embed_dim,): one where prompts are not scaled, zero where there are none."""
        config, like = self.config, next(self.parameters())
        one, zero = like.new_ones(self.embed_dim), like.new_zeros(self.embed_dim)
        alpha = (self.inner_scale[layer] if config.scaling else one) if config.inner else zero
        beta = (self.cross_scale[layer // config.shared_layers] if config.scaling else one) if config.cross else zero
        return {"alpha": alpha, "beta": beta}

    def _prompted(self, tokens: Tensor, layout: Layout | None) -> Tensor | None:
        """Which tokens are prompted, (length,) of bool; None for all."""
        own = tokens.shape[1] - (layout.num_tokens if layout else 0)
        if self.config.prompt_cls_token:
            prompted = torch.ones(own, dtype=torch.bool, device=tokens.device) if layout else None
        else:
            prompted = torch.arange(own, device=tokens.device) != (own - 1) // 2
        if layout is None or prompted is None:
            return prompted
        return layout.insert(prompted.view(1, -1, 1), prompted.new_zeros(1, layout.num_tokens, 1)).flatten()

    def _forward_official(self, layer: int, tokens: Tensor, m: int) -> Tensor:
        front, cls_token, back = tokens[:, :m], tokens[:, m : m + 1], tokens[:, m + 1 :]
        if front.shape[1] != back.shape[1]:
            raise InputError(_needs_even_patches(front.shape[1] + back.shape[1]))
        prompted_front = front + self.cross_prompt(layer, front)
        prompted_back = back
        if self.config.inner:
            prompted_front = prompted_front + self.inner_prompt(layer, front)
            prompted_back = prompted_back + self.inner_prompt(layer, back)
        prompted_back = prompted_back + self.cross_prompt(layer, prompted_front)
        return torch.cat([prompted_front, cls_token.to(prompted_front.dtype), prompted_back], dim=1)


def _prompt_of(prompter: nn.Module, tokens: Tensor, scale: Tensor | None) -> Prompt | LinearPrompt:
    """The prompt of one prompter; maps that nothing has been put around are left to whoever adds the prompt."""
    if not isinstance(prompter, nn.Sequential) or touched(prompter, nn.Sequential) or len(prompter) != 2:
        found = effective_weight(prompter)
        return Prompt(prompter(tokens), scale) if isinstance(found, str) else LinearPrompt(tokens, scale, *found)
    first, last = (effective_weight(module) for module in prompter)
    if isinstance(last, str):
        return Prompt(prompter(tokens), scale)
    if isinstance(first, str):
        return LinearPrompt(prompter[0](tokens), scale, *last)
    return LinearPrompt(tokens, scale, *last, first)


class _PromptLayer(BlockEntry):
    """The ``on_entry`` of block `layer`: leaves simple prompts to the block, which adds them as it adds the residual."""

    def __init__(self, prompters: Prompters, layer: int, added_tokens: AddedTokens) -> None:
        self.prompters, self.layer, self.added_tokens = prompters, layer, added_tokens

    def __call__(self, hidden: Tensor) -> tuple[Tensor, Prompts]:
        layout = self.added_tokens.in_blocks
        if self.prompters.are_simple() and not touched(self.prompters, Prompters):
            return hidden, self.prompters.prompts(self.layer, hidden, layout)
        return self.prompters(self.layer, hidden, layout), Prompts()

    def parts(self, hidden: Tensor) -> dict[str, Tensor]:
        return self.prompters.parts(self.layer, hidden, self.added_tokens.in_blocks)

    def scales(self) -> dict[str, Tensor]:
        return self.prompters.scales(self.layer)


def simam(images: Tensor, lambda_: float = 1e-3) -> Tensor:
    """Weigh every pixel by parameter-free attention, per image and channel.

        d = (x - mean(x))^2;   e = d / (4 (sum(d) / (H W - 1) + lambda)) + 1/2;   x * sigmoid(e)

    Args:
        images: (batch, channels, height, width).
        lambda_: Regulariser; matters where the contrast is low.

    Source: Yang et al., "SimAM", ICML 2021; applied to the input as in the released SVP code.
    """
    d = (images - images.mean(dim=(2, 3), keepdim=True)).square()
    n = images.shape[2] * images.shape[3] - 1
    e = d / (4 * (d.sum(dim=(2, 3), keepdim=True) / n + lambda_)) + 0.5
    return images * torch.sigmoid(e)


def _weigh_input(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    images, *rest = args
    return (simam(images), *rest)


_RELEASED_NAMES = (
    (r"^prompt_scale$", "svp.inner_scale"),
    (r"^prompt_shared_scale$", "svp.cross_scale"),
    (r"^prompt_generator_shared\.(\d+)\.0\.", r"svp.cross_prompters.\1."),
    (r"^prompt_generator\.", "svp.inner_prompters."),
)


def _two_linear_head(model: VisionMamba) -> nn.Sequential:
    if model.num_classes == 0:
        raise InputError("svp: head is 'two_linear', but the model has no head; give it num_classes")
    half, like = model.embed_dim // 2, model.pos_embed
    factory: dict[str, Any] = dict(device=like.device, dtype=like.dtype)
    linears = (nn.Linear(model.embed_dim, half, **factory), nn.Linear(half, model.num_classes, **factory))
    for linear in linears:
        trunc_normal_(linear.weight, std=0.02)
        nn.init.zeros_(linear.bias)
    return nn.Sequential(*linears).train(model.training)


def _needs_even_patches(num_patches: int) -> str:
    return (
        f"svp: cross_prompt 'official' needs as many patches behind the class token as in front of it, the model has "
        f"{num_patches} patches; use cross_prompt='paper'"
    )
