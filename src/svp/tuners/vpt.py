"""Visual Prompt Tuning (VPT): learned tokens join the sequence, the same for every image.

    shallow   tokens <- insert(tokens, P)                in front of the first block
    deep      tokens_l <- insert(own(tokens_l), P_l)     in front of every block, for those of the block before

`insert` puts the prompts where `position` says, `own` leaves them out again; the model's own tokens keep their order, and
only they go to the final norm and the head, so the class token is found wherever prompts stand. In a scan the position
matters: what comes first has faded when the last token is reached (to the attention of a ViT it is all the same). A prompt
that replaces another starts without residual.
With `projection` the prompts are W2 tanh(W1 P + b1) + b2, one such map for all of them.

What trains: P, the projection and the head. Without head, with d = embed_dim, L = depth, p = num_tokens: shallow p d, deep
L p d, and 2 (d^2 + d) more with projection. For Vim-S with the defaults 3,072 and 73,728; shallow with projection 298,752, as
in MambaPEFT's table (307 thousand with a head of about 9; 12 without projection).

Sources: Jia et al., "Visual Prompt Tuning", ECCV 2022, arXiv:2203.12119 (initial values uniform in +-sqrt(6 / (3 patch^2 + d))
there too); positions and projection as in Yoshimura et al., "MambaPEFT", ICLR 2025, arXiv:2411.03855.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from svp.errors import InputError, UnavailableError
from svp.models import VisionMamba
from svp.tuners.attachment import Attachment
from svp.tuners.backbones import VIM_AND_VIT, anatomy
from svp.tuners.layout import Layout, Position, check_num_tokens, check_position
from svp.tuners.method import Method, register_method


@dataclass(frozen=True)
class VPT(Method):
    """Prompt tokens in front of the first `prompted_blocks`; they are found at ``model.vpt``.

    Args:
        num_tokens: Prompts (per block, if deep).
        position: Where they stand, see ``svp.tuners.layout.Layout``.
        projection: Train the prompts through two linear maps with tanh between them.
        dropout: Dropout on the prompts, 0 <= dropout < 1.
    """

    backbones = VIM_AND_VIT
    default_lr = 1e-2
    default_weight_decay = 1e-4

    num_tokens: int = 8
    position: Position = "prefix"
    projection: bool = False
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.num_tokens < 1:
            raise InputError(f"{self.name}: num_tokens is {self.num_tokens}, expected 1 or more")
        check_position(self.name, self.position)
        if not 0 <= self.dropout < 1:
            raise InputError(f"{self.name}: dropout is {self.dropout}, expected 0 <= dropout < 1")

    def check_backbone(self, model: nn.Module) -> None:
        super().check_backbone(model)
        check_num_tokens(self.name, self.num_tokens, model)

    @abstractmethod
    def prompted_blocks(self, depth: int) -> int:
        """How many blocks get prompts of their own."""

    def attach(self, site: Attachment) -> Iterable[str]:
        model, parts = site.model, anatomy(site.model)
        blocks = parts.blocks_of(model)
        prompts = PromptTokens(model, self.prompted_blocks(len(blocks)), self)
        for layer, block in enumerate(blocks[: len(prompts.tokens)]):
            site.hook(block.register_forward_pre_hook(_PromptBlock(prompts, layer)))
        if isinstance(model, VisionMamba):
            site.replace("own_tokens", prompts.layout.own)
        else:
            site.hook(model.get_submodule(parts.final_norm).register_forward_pre_hook(_LeaveOut(prompts.layout)))
            site.replace("forward_intermediates", _no_intermediates)
        names = site.add("vpt", prompts)
        site.added_tokens.add_to_blocks(prompts.layout)
        return names


class PromptTokens(nn.Module):
    """The prompts of `depth` blocks.

    Attributes:
        tokens: (depth, num_tokens, embed_dim).
        projection: Two linear maps, if asked for.
    """

    def __init__(self, model: Any, depth: int, config: VPT) -> None:
        super().__init__()
        d, like = model.embed_dim, model.patch_embed.proj.weight
        factory: dict[str, Any] = dict(device=like.device, dtype=like.dtype)
        self.layout = Layout(config.num_tokens, config.position)
        self.tokens = nn.Parameter(torch.empty(depth, config.num_tokens, d, **factory))
        bound = math.sqrt(6 / (3 * math.prod(model.patch_embed.patch_size) + d))
        nn.init.uniform_(self.tokens, -bound, bound)
        if config.projection:
            self.projection = nn.Sequential(nn.Linear(d, d, **factory), nn.Tanh(), nn.Linear(d, d, **factory))
        else:
            self.projection = nn.Sequential()
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, layer: int, tokens: Tensor, residual: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """What enters block `layer`: with its prompts in place of those of the block before."""
        prompts = self.dropout(self.projection(self.tokens[layer])).expand(tokens.shape[0], -1, -1).to(tokens.dtype)
        if layer == 0:
            return self.layout.insert(tokens, prompts), residual
        tokens = self.layout.insert(self.layout.own(tokens), prompts)
        if residual is None:
            return tokens, None
        return tokens, self.layout.insert(self.layout.own(residual), residual.new_zeros(prompts.shape))


class _PromptBlock:
    """Forward pre-hook of block `layer`."""

    def __init__(self, prompts: PromptTokens, layer: int) -> None:
        self.prompts, self.layer = prompts, layer

    def __call__(self, block: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return self.prompts(self.layer, *args)[: len(args)]


class _LeaveOut:
    """Forward pre-hook of the final norm of a ViT."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def __call__(self, norm: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (self.layout.own(*args),)


def _no_intermediates(*_: Any, **__: Any) -> Any:
    raise UnavailableError(
        "between the blocks of a prompted Vision Transformer stand prompts, which timm would take for patches: "
        "call forward_intermediates after model.tuner.detach(), or on a Vim"
    )


@register_method("vpt_shallow", title="VPT-shallow")
@dataclass(frozen=True)
class VPTShallow(VPT):
    """Prompts join at the first block and go through all."""

    def prompted_blocks(self, depth: int) -> int:
        return 1


@register_method("vpt_deep", title="VPT-deep")
@dataclass(frozen=True)
class VPTDeep(VPT):
    """Every block has prompts of its own."""

    def prompted_blocks(self, depth: int) -> int:
        return depth
