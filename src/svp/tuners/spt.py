"""Self-Prompt Tuning (SPT): VPT whose prompts start as tokens of the training images.

    P_l <- p of the patch tokens that enter block l, of a batch of training images      drawn, or the centers of k-means

Afterwards it is VPT, with the same count: p d shallow, L p d deep for p = num_tokens, d = embed_dim, L = depth. For Vim-S with
the defaults 38,400 and 184,320. A prompt of a Vim starts without residual, so the tokens that are drawn are the whole stream:
what the block before gives and the residual.

Source: Wang et al., "Revisiting the Power of Prompt for Visual Tuning", ICML 2024, arXiv:2402.02382 (100 prompts shallow, 20
deep, drawn at random by default; k-means is a little better there and slower). The description leaves open, and we choose:
the class token is not among what is drawn from; 64 images make the batch. Its prompts by mean and maximum pooling are left
out: which tokens are pooled into one is not said.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from svp.errors import InputError
from svp.models import VisionMamba
from svp.tuners.backbones import anatomy
from svp.tuners.method import Method, check_finite_features, register_method
from svp.tuners.vpt import VPT

Sampling = Literal["random", "kmeans"]


@dataclass(frozen=True)
class SPT(VPT):
    """Prompt tokens that start as patch tokens; they are found at ``model.vpt``.

    They need training images: ``svp train`` shows them a batch, ``svp.tune(model, "spt_deep", images=batches)`` does so in
    Python. Without images they start as VPT's do.

    Args:
        num_tokens: Prompts (per block, if deep).
        position: Where they stand, see ``svp.tuners.layout.Layout``.
        projection: Always false; the prompts themselves train.
        dropout: Dropout on the prompts, 0 <= dropout < 1.
        sampling: "random", tokens drawn from all; "kmeans", the centers of as many clusters of them.
    """

    default_lr = 3e-2
    num_images = 64

    sampling: Sampling = "random"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.projection:
            raise InputError(
                f"{self.name}: projection is True, expected False: prompts that start as tokens train as they are"
            )
        if self.sampling not in get_args(Sampling):
            raise InputError(f"{self.name}: sampling is {self.sampling!r}, expected one of {', '.join(get_args(Sampling))}")

    def fitted(self, model: nn.Module, images: Iterable[Tensor]) -> tuple[Method, dict[str, Tensor]]:
        blocks = anatomy(model).blocks_of(model)
        entering = _Entering()
        handles = [block.register_forward_pre_hook(entering) for block in blocks[: self.prompted_blocks(len(blocks))]]
        try:
            model(torch.cat([*images])[: self.num_images])
        finally:
            for handle in handles:
                handle.remove()
        class_token = model.cls_position if isinstance(model, VisionMamba) else 0
        own = [torch.cat([x[:, :class_token], x[:, class_token + 1 :]], dim=1).flatten(0, 1) for x in entering.streams]
        for tokens in own:
            check_finite_features(self.name, tokens)
        return self, {"vpt.tokens": torch.stack([self._chosen(tokens.float()) for tokens in own])}

    def _chosen(self, tokens: Tensor) -> Tensor:
        """(number, embed_dim) -> (num_tokens, embed_dim)"""
        if self.sampling == "kmeans" and len(tokens) > self.num_tokens:
            from sklearn.cluster import KMeans

            centers = KMeans(self.num_tokens, n_init=1, random_state=0).fit(tokens.cpu().numpy()).cluster_centers_
            return torch.from_numpy(centers).to(tokens)
        drawn = torch.randperm(max(len(tokens), self.num_tokens), generator=torch.Generator().manual_seed(0))
        return tokens[(drawn[: self.num_tokens] % len(tokens)).to(tokens.device)]


class _Entering:
    """Forward pre-hook of the blocks: keeps the streams that enter them, (batch, length, embed_dim)."""

    def __init__(self) -> None:
        self.streams: list[Tensor] = []

    def __call__(self, block: nn.Module, args: tuple[Any, ...]) -> None:
        hidden, *residual = (tensor for tensor in args if tensor is not None)
        self.streams.append(hidden + residual[0] if residual else hidden)


@register_method("spt_shallow", title="SPT-shallow")
@dataclass(frozen=True)
class SPTShallow(SPT):
    """Prompts join at the first block and go through all."""

    num_tokens: int = 100

    def prompted_blocks(self, depth: int) -> int:
        return 1


@register_method("spt_deep", title="SPT-deep")
@dataclass(frozen=True)
class SPTDeep(SPT):
    """Every block has prompts of its own."""

    num_tokens: int = 20

    def prompted_blocks(self, depth: int) -> int:
        return depth
