"""Methods that add nothing: a part of the backbone trains as it is, everything else is frozen.

    name        what trains beside the head                                           Vim-S, without head
    bitfit      every bias: patch embedding, convolutions, step sizes                  74,112
    norm        the weights of every RMSNorm (in a ViT, LayerNorms with their biases)   9,600
    partial     the last `blocks` blocks and the final norm                            1,043,712 for one block
    A           A_log of both directions: how fast states are forgotten                589,824
    D           D of both directions: what skips the scan                              36,864
    conv1d      the filters of both directions, without their bias                     147,456
    cls_token   the class token                                                        384
    pos_embed   the position embedding                                                 75,648

With d = embed_dim, E = d_inner, N = d_state, K = d_conv, L = depth and T tokens: bitfit d + 4 L E, norm (L + 1) d, A 2 L E N,
D 2 L E, conv1d 2 L E K, cls_token d, pos_embed T d. Those of A, D, conv1d and pos_embed are what MambaPEFT publishes
for Vim-S (in thousands, with a head of about 9: 598, 45, 156, 84); its "Bias" has 37, fewer than all biases are.

bitfit, norm, partial, cls_token and pos_embed work on a ViT too.

Sources: Ben Zaken et al., "BitFit", ACL 2022, arXiv:2106.10199; Jia et al., "Visual Prompt Tuning", ECCV 2022,
arXiv:2203.12119 (`partial`: the last blocks with the final norm); Yoshimura et al., "MambaPEFT", ICLR 2025, arXiv:2411.03855
(A, D, conv1d, cls_token, pos_embed).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from svp.errors import InputError
from svp.tuners.attachment import Attachment
from svp.tuners.backbones import VIM_AND_VIT, anatomy
from svp.tuners.method import Method, register_method


@dataclass(frozen=True)
class PartMethod(Method):
    """Train the parameters that ``chosen`` names. Nothing is added, so ``merge`` gives the model as it is."""

    default_lr = 1e-2
    default_weight_decay = 1e-4
    mergeable = True

    def attach(self, site: Attachment) -> Iterable[str]:
        return self.chosen(site.model)

    @abstractmethod
    def chosen(self, model: Any) -> Iterable[str]:
        """Names of the parameters that train beside the head."""


@register_method("bitfit", title="BitFit")
@dataclass(frozen=True)
class BitFit(PartMethod):
    """Train every bias."""

    backbones = VIM_AND_VIT

    def chosen(self, model: Any) -> Iterable[str]:
        return [name for name, _ in model.named_parameters() if name.endswith(".bias")]


@register_method("norm", title="norms")
@dataclass(frozen=True)
class Norm(PartMethod):
    """Train the norms: weights, and in a ViT their biases."""

    backbones = VIM_AND_VIT

    def chosen(self, model: Any) -> Iterable[str]:
        norms = [name for name, module in model.named_modules() if isinstance(module, nn.RMSNorm | nn.LayerNorm)]
        return [f"{norm}.{name}" for norm in norms for name, _ in model.get_submodule(norm).named_parameters()]


@register_method("partial", title="last blocks")
@dataclass(frozen=True)
class Partial(PartMethod):
    """Train the last blocks and the final norm.

    Args:
        blocks: Blocks that train, counted from the last, 1 to depth.
    """

    backbones = VIM_AND_VIT
    default_lr = 1e-3

    blocks: int = 1

    def __post_init__(self) -> None:
        if self.blocks < 1:
            raise InputError(f"partial: blocks is {self.blocks}, expected 1 or more")

    def chosen(self, model: Any) -> Iterable[str]:
        parts, blocks = anatomy(model), self.blocks
        depth = len(parts.blocks_of(model))
        if blocks > depth:
            raise InputError(f"partial: blocks is {blocks}, expected 1 to the model's depth {depth}")
        trained = [f"{parts.blocks}.{layer}." for layer in range(depth - blocks, depth)]
        return [name for name, _ in model.named_parameters() if name.startswith((*trained, f"{parts.final_norm}."))]


@register_method("A")
@dataclass(frozen=True)
class A(PartMethod):
    """Train A of both directions."""

    def chosen(self, model: Any) -> Iterable[str]:
        return _of_mixers(model, "A_log", "A_b_log")


@register_method("D")
@dataclass(frozen=True)
class D(PartMethod):
    """Train D of both directions."""

    def chosen(self, model: Any) -> Iterable[str]:
        return _of_mixers(model, "D", "D_b")


@register_method("conv1d", title="convolutions")
@dataclass(frozen=True)
class Conv1d(PartMethod):
    """Train the filters of both directions."""

    def chosen(self, model: Any) -> Iterable[str]:
        return _of_mixers(model, "conv1d.weight", "conv1d_b.weight")


@register_method("cls_token", title="class token")
@dataclass(frozen=True)
class ClsToken(PartMethod):
    """Train the class token."""

    backbones = VIM_AND_VIT

    def chosen(self, model: Any) -> Iterable[str]:
        return ["cls_token"]


@register_method("pos_embed", title="position embedding")
@dataclass(frozen=True)
class PosEmbed(PartMethod):
    """Train the position embedding; the model's input size is fixed as long as it does."""

    backbones = VIM_AND_VIT

    def attach(self, site: Attachment) -> Iterable[str]:
        site.fix_input_size()
        return super().attach(site)

    def chosen(self, model: Any) -> Iterable[str]:
        return ["pos_embed"]


def _of_mixers(model: Any, *names: str) -> list[str]:
    return [f"layers.{layer}.mixer.{name}" for layer in range(len(model.layers)) for name in names]
