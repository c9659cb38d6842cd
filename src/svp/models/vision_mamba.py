"""Vision Mamba (Vim): bidirectional state-space blocks over image patches, the class token in the middle.

Zhu et al., "Vision Mamba: Efficient Visual Representation Learning with Bidirectional State Space Model", ICML 2024,
arXiv:2401.09417. State-dict keys, shapes and numbers are those of the released checkpoints (hustvl/Vim, "v2" blocks, mean of
both directions). The models keep timm's contract; ``vim.py`` registers them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from timm.layers import DropPath, to_2tuple, trunc_normal_
from timm.models import checkpoint
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from svp.errors import InputError
from svp.models import checkpoints
from svp.models.blocks import Block, PatchEmbed, RMSNorm, add_residual
from svp.models.mixer import BidirectionalMamba

__all__ = ["VisionMamba"]

# three keep about as much while they are computed again as both streams in front of every third block of 24 take
_CHECKPOINTED_TOGETHER = 3


class VisionMamba(nn.Module):
    """Vision Mamba classifier.

        tokens = [patches before the middle, class token, patches behind it] + pos_embed
        hidden, residual = tokens, none;   (hidden, residual) <- block_l(hidden, residual)  for every layer
        logits = head(RMSNorm(residual + hidden)[class token])

    The class token sits at position ``num_patches // 2`` of the sequence of ``num_patches + 1`` tokens.

    Args:
        img_size: Input side in pixels, or (height, width).
        patch_size: Side of a patch in pixels.
        stride: Distance of neighbouring patches in pixels.
        in_chans: Image channels.
        embed_dim: Width of the tokens (`d_model` of the mixers).
        depth: Blocks.
        d_state: States per channel of the scan.
        d_conv: Taps of the causal convolution.
        expand: d_inner = expand * embed_dim.
        dt_rank: Rank of the step size; ceil(embed_dim / 16) if None.
        num_classes: Outputs of the head; 0 leaves the pooled feature.
        drop_rate: Dropout in front of the head.
        drop_path_rate: Stochastic depth of the last block, growing from 0 linearly.
        global_pool: "token" (class token), "avg" (mean of all image tokens) or "" (none).

    Raises:
        ValueError: An option is out of range; names it.
    """

    layers: Any  # an nn.ModuleList of Block: annotated so, indexing would give a bare nn.Module
    norm_f: Any  # RMSNorm, or Identity once pruned
    head: nn.Module
    pretrained_cfg: dict[str, Any]
    default_cfg: dict[str, Any]

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int | tuple[int, int] = 16,
        stride: int | tuple[int, int] = 16,
        in_chans: int = 3,
        embed_dim: int = 192,
        depth: int = 24,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | None = None,
        num_classes: int = 1000,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        global_pool: Literal["token", "avg", ""] = "token",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        sizes = dict(in_chans=in_chans, embed_dim=embed_dim, depth=depth, d_state=d_state, d_conv=d_conv, expand=expand)
        sizes |= dict(patch_size=min(to_2tuple(patch_size)), stride=min(to_2tuple(stride)))
        for name, value in sizes.items():
            if value < 1:
                raise InputError(f"{name} is {value}, expected 1 or more")
        if num_classes < 0:
            raise InputError(f"num_classes is {num_classes}, expected 0 or more")
        _check_rate("drop_rate", drop_rate)
        _check_pool(global_pool)

        self.num_classes = num_classes
        self.in_chans = in_chans
        self.embed_dim = self.num_features = self.head_hidden_size = embed_dim
        self.global_pool = global_pool
        self.grad_checkpointing = False
        # notes that others leave: how the model was made, what tuned it, the file that came from
        self.origin: Any = None
        self.tuner: Any = None
        self.adapter: Any = None

        self.patch_embed = PatchEmbed(img_size, patch_size, stride, in_chans, embed_dim, device=device, dtype=dtype)
        self.cls_token = nn.Parameter(torch.empty(1, 1, embed_dim, device=device, dtype=dtype))
        num_tokens = self.patch_embed.num_patches + 1
        self.pos_embed = nn.Parameter(torch.empty(1, num_tokens, embed_dim, device=device, dtype=dtype))
        # here, since the released checkpoints list the head in front of the layers
        self.head = nn.Linear(embed_dim, num_classes, device=device, dtype=dtype) if num_classes else nn.Identity()
        self.layers = nn.ModuleList(
            Block(
                BidirectionalMamba(embed_dim, d_state, d_conv, expand, dt_rank, depth, device=device, dtype=dtype),
                RMSNorm(embed_dim, eps=1e-5, device=device, dtype=dtype),
            )
            for _ in range(depth)
        )
        self.set_drop_path(drop_path_rate)
        self.norm_f = RMSNorm(embed_dim, eps=1e-5, device=device, dtype=dtype)
        self.head_drop = nn.Dropout(drop_rate)

        reduction = self.patch_embed.feat_ratio()
        self.feature_info = [dict(module=f"layers.{i}", num_chs=embed_dim, reduction=reduction) for i in range(depth)]
        self.init_weights()

    @property
    def cls_position(self) -> int:
        """Where the class token sits in the sequence."""
        return self.patch_embed.num_patches // 2

    @torch.no_grad()
    def init_weights(self) -> None:
        """Fresh weights, as the release initializes them (and the backward direction's step size too)."""
        trunc_normal_(self.pos_embed, std=0.02)
        trunc_normal_(self.cls_token, std=0.02)
        self.patch_embed.init_weights()
        for block in self.layers:
            block.mixer.init_weights()
            block.norm.reset_parameters()
        self.norm_f.reset_parameters()
        self._init_head()

    def _init_head(self) -> None:
        if isinstance(self.head, nn.Linear):
            trunc_normal_(self.head.weight, std=0.02)
            nn.init.zeros_(self.head.bias)

    # timm's contract ---------------------------------------------------------------------------------------------------

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that weight decay must not touch."""
        names = {"pos_embed", "cls_token"}
        scan = ("A_log", "D", "A_b_log", "D_b")
        return names | {f"layers.{i}.mixer.{name}" for i in range(len(self.layers)) for name in scan}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter groups in the order of depth, for layer-wise learning rates."""
        return dict(
            stem=r"^cls_token|^pos_embed|^patch_embed",
            blocks=[(r"^layers\.(\d+)", None), (r"^norm_f", (99999,))],
        )

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks in the backward pass, three at a time, instead of keeping their activations."""
        self.grad_checkpointing = enable

    def set_drop_path(self, rate: float) -> None:
        """Stochastic depth that grows to `rate`: block i drops its incoming stream at the rate of block i-1, as released."""
        _check_rate("drop_path_rate", rate)
        depth = len(self.layers)
        rates = [0.0, *(rate * i / max(depth - 1, 1) for i in range(depth))]
        for block, block_rate in zip(self.layers, rates, strict=False):
            block.drop_path = DropPath(block_rate)
        self.drop_path = DropPath(rates[-1])

    def get_classifier(self) -> nn.Module:
        """The head."""
        return self.head

    @torch.no_grad()
    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head by a fresh one; `num_classes` 0 removes it."""
        if global_pool is not None:
            self.global_pool = _check_pool(global_pool)
        self.num_classes = num_classes
        like = self.pos_embed
        head = nn.Linear(self.embed_dim, num_classes, device=like.device, dtype=like.dtype) if num_classes else None
        self.head = head or nn.Identity()
        self._init_head()
        self.head.train(self.training)

    @torch.no_grad()
    def set_input_size(self, img_size: int | tuple[int, int] | None = None) -> None:
        """Accept images of another size: the position embedding is resized, the class token's row kept as it is.

        Raises:
            ValueError: Smaller than a patch.
        """
        if img_size is None:
            return
        old_grid = self.patch_embed.grid_size
        self.patch_embed.set_input_size(img_size)
        resized = checkpoints.resize_pos_embed(self.pos_embed, old_grid, self.patch_embed.grid_size)
        self.pos_embed = nn.Parameter(resized, requires_grad=self.pos_embed.requires_grad)
        if self.origin is not None:
            self.origin = replace(self.origin, overrides=self.origin.overrides | {"img_size": img_size})

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Any] | tuple[Tensor, list[Any]]:
        """Features and the residual stream after chosen blocks.

        Args:
            x: Images, (batch, in_chans, height, width).
            indices: Blocks: the last n, these, or all if None.
            return_prefix_tokens: Return (image tokens, class token) pairs; the class token, (batch, 1, embed_dim), is cut
                out of the middle.
            norm: Apply the final norm to every intermediate.
            stop_early: Run no block behind the last one asked for.
            output_fmt: "NCHW", (batch, embed_dim, rows, columns), or "NLC", (batch, tokens, embed_dim).
            intermediates_only: Leave out the final features.

        Raises:
            ValueError: An unknown `output_fmt`.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise InputError(f"output_fmt is {output_fmt!r}, expected 'NCHW' or 'NLC'")
        take, last = feature_take_indices(len(self.layers), indices)
        state: tuple[Any, ...] = (self._embed(x),)
        taps: list[Tensor] = []
        for i, block in enumerate(self.layers[: last + 1] if stop_early else self.layers):
            state = self.run_blocks([block], *state)
            if i in take:
                tap = self.own_tokens(add_residual(*state[:2]))
                taps.append(self.norm_f(tap) if norm else tap)
        intermediates: list[Any] = []
        m = self.cls_position
        rows, columns = self.patch_embed.grid_size
        for tap in taps:
            image_tokens = torch.cat([tap[:, :m], tap[:, m + 1 :]], dim=1)
            if output_fmt == "NCHW":
                image_tokens = image_tokens.transpose(1, 2).reshape(len(tap), -1, rows, columns)
            intermediates.append((image_tokens, tap[:, m : m + 1]) if return_prefix_tokens else image_tokens)
        return intermediates if intermediates_only else (self.final_norm(*state), intermediates)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop what the intermediates at `indices` do not need; returns the indices kept."""
        take, last = feature_take_indices(len(self.layers), indices)
        self.layers = self.layers[: last + 1]
        if prune_norm:
            self.norm_f = nn.Identity()
        if prune_head:
            self.reset_classifier(0, "")
        return list(take)

    # the model ---------------------------------------------------------------------------------------------------------

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (batch, in_chans, height, width) -> tokens after the last norm (batch, num_patches + 1, embed_dim)."""
        return self.final_norm(*self.run_blocks(list(self.layers), self._embed(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Tokens -> logits (batch, num_classes), or the pooled feature (batch, embed_dim) with `pre_logits`."""
        m = self.cls_position
        if self.global_pool == "token":
            x = x[:, m].clone()  # a view, kept for the backward pass, would keep all tokens
        elif self.global_pool == "avg":
            x = (x.sum(dim=1) - x[:, m]) / self.patch_embed.num_patches
        x = self.head_drop(x)
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """Images (batch, in_chans, height, width) -> logits (batch, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def _embed(self, x: Tensor) -> Tensor:
        patches = self.patch_embed(x)
        m = self.cls_position
        cls_token = self.cls_token.expand(patches.shape[0], -1, -1).to(patches.dtype)
        return torch.cat([patches[:, :m], cls_token, patches[:, m:]], dim=1) + self.pos_embed

    def run_blocks(self, blocks: list[Any], *state: Any) -> tuple[Any, ...]:
        """Blocks that follow one another, on what those before them return; the first gets the embedded tokens alone."""
        if not (self.grad_checkpointing and self.training and torch.is_grad_enabled()):
            return self.run_together(blocks, *state)
        for i in range(0, len(blocks), _CHECKPOINTED_TOGETHER):
            state = checkpoint(self.run_together, blocks[i : i + _CHECKPOINTED_TOGETHER], *state)
        return state

    def run_together(self, blocks: list[Any], hidden: Tensor, residual: Tensor | None = None) -> tuple[Any, ...]:
        """Blocks that keep what their backward pass needs, or of which one checkpoint is kept.

        Who reads between blocks puts functions in the place of this one and of ``final_norm``: what it returns behind the two
        streams is given to the next blocks, and in the end to ``final_norm``.
        """
        for block in blocks:
            hidden, residual = block(hidden, residual)
        return hidden, residual

    def final_norm(self, hidden: Tensor, residual: Tensor | None) -> Tensor:
        """What ``run_blocks`` returns behind the last block -> tokens after the last norm."""
        return self.norm_f(self.own_tokens(add_residual(self.drop_path(hidden), residual)))

    def own_tokens(self, tokens: Tensor) -> Tensor:
        """The model's own ``num_patches + 1`` of the tokens that went through the blocks, (batch, length, embed_dim).

        Who adds tokens puts a function in the place of this one that leaves them out.
        """
        return tokens


def _check_rate(name: str, rate: float) -> None:
    if not 0 <= rate < 1:
        raise InputError(f"{name} is {rate}, expected 0 <= {name} < 1")


def _check_pool(global_pool: str) -> Any:
    if global_pool not in ("token", "avg", ""):
        raise InputError(f"global_pool is {global_pool!r}, expected 'token', 'avg' or ''")
    return global_pool
