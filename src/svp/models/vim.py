"""Vision Mamba (Vim): bidirectional state-space blocks over image patches, the class token in the middle.

Zhu et al., "Vision Mamba: Efficient Visual Representation Learning with Bidirectional State Space Model", ICML 2024,
arXiv:2401.09417. State-dict keys, shapes and numbers are those of the released checkpoints (hustvl/Vim, "v2" blocks, mean of
both directions). The models are registered with timm and keep its contract.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import DropPath, to_2tuple, trunc_normal_
from timm.models import (
    build_model_with_cfg,
    checkpoint,
    generate_default_cfgs,
    register_model,
)
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from svp.errors import InputError
from svp.models import checkpoints
from svp.models.blocks import Block, PatchEmbed, RMSNorm, add_residual
from svp.models.mixer import BidirectionalMamba

__all__ = ["VisionMamba"]


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
        self.origin: Any = None  # set by svp.create_model
        self.tuner: Any = None  # set by svp.tune
        self.layout: Any = None  # set by a tuner that adds tokens: layout.own(tokens) gives those of the model
        self.adapter: Any = None  # set by svp.load_adapter

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
        """Recompute every block in the backward pass instead of keeping its activations."""
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
            RuntimeError: A tuner trains the position embedding.
        """
        if img_size is None:
            return
        if self.tuner is not None and "pos_embed" in self.tuner.trainable_names:
            raise RuntimeError(f"pos_embed is trained by {self.tuner.name!r}: call set_input_size before svp.tune")
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
        hidden, residual = self._embed(x), None
        taps: list[Tensor] = []
        for i, block in enumerate(self.layers[: last + 1] if stop_early else self.layers):
            hidden, residual = self._run(block, hidden, residual)
            if i in take:
                tap = self._own(add_residual(hidden, residual))
                taps.append(self.norm_f(tap) if norm else tap)
        intermediates: list[Any] = []
        m = self.cls_position
        rows, columns = self.patch_embed.grid_size
        for tap in taps:
            image_tokens = torch.cat([tap[:, :m], tap[:, m + 1 :]], dim=1)
            if output_fmt == "NCHW":
                image_tokens = image_tokens.transpose(1, 2).reshape(len(tap), -1, rows, columns)
            intermediates.append((image_tokens, tap[:, m : m + 1]) if return_prefix_tokens else image_tokens)
        return intermediates if intermediates_only else (self._final_norm(hidden, residual), intermediates)

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
        hidden, residual = self._embed(x), None
        for block in self.layers:
            hidden, residual = self._run(block, hidden, residual)
        return self._final_norm(hidden, residual)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Tokens -> logits (batch, num_classes), or the pooled feature (batch, embed_dim) with `pre_logits`."""
        m = self.cls_position
        if self.global_pool == "token":
            x = x[:, m]
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

    def _run(self, block: nn.Module, hidden: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.grad_checkpointing and self.training and torch.is_grad_enabled():
            hidden, residual = checkpoint(block, hidden, residual)
        else:
            hidden, residual = block(hidden, residual)
        return hidden, residual

    def _final_norm(self, hidden: Tensor, residual: Tensor | None) -> Tensor:
        return self.norm_f(self._own(add_residual(self.drop_path(hidden), residual)))

    def _own(self, tokens: Tensor) -> Tensor:
        return tokens if self.layout is None else self.layout.own(tokens)


def _check_rate(name: str, rate: float) -> None:
    if not 0 <= rate < 1:
        raise InputError(f"{name} is {rate}, expected 0 <= {name} < 1")


def _check_pool(global_pool: str) -> Any:
    if global_pool not in ("token", "avg", ""):
        raise InputError(f"global_pool is {global_pool!r}, expected 'token', 'avg' or ''")
    return global_pool


# registration with timm ------------------------------------------------------------------------------------------------


def _cfg(**kwargs: Any) -> dict[str, Any]:
    return (
        dict(
            num_classes=1000,
            input_size=(3, 224, 224),
            pool_size=None,
            fixed_input_size=True,
            crop_pct=0.875,
            interpolation="bicubic",
            mean=IMAGENET_DEFAULT_MEAN,
            std=IMAGENET_DEFAULT_STD,
            first_conv="patch_embed.proj",
            classifier="head",
            paper_ids="arXiv:2401.09417",
            paper_name="Vision Mamba: Efficient Visual Representation Learning with Bidirectional State Space Model",
            origin_url="https://github.com/hustvl/Vim",
            license="apache-2.0 (metadata of the model card); non-commercial (text of the model card)",
        )
        | kwargs
    )


default_cfgs = generate_default_cfgs(
    {
        "vim_tiny_patch16_224.in1k": _cfg(
            hf_hub_id="hustvl/Vim-tiny-midclstok", hf_hub_filename="vim_t_midclstok_76p1acc.pth"
        ),
        "vim_tiny_patch16_stride8_224.in1k": _cfg(
            hf_hub_id="hustvl/Vim-tiny-midclstok", hf_hub_filename="vim_t_midclstok_ft_78p3acc.pth"
        ),
        "vim_small_patch16_224.in1k": _cfg(
            hf_hub_id="hustvl/Vim-small-midclstok", hf_hub_filename="vim_s_midclstok_80p5acc.pth"
        ),
        "vim_small_patch16_stride8_224.in1k": _cfg(
            hf_hub_id="hustvl/Vim-small-midclstok", hf_hub_filename="vim_s_midclstok_ft_81p6acc.pth"
        ),
        "vim_base_patch16_224.in1k": _cfg(
            hf_hub_id="hustvl/Vim-base-midclstok", hf_hub_filename="vim_b_midclstok_81p9acc.pth"
        ),
        "vim_nano_patch4_32": _cfg(
            input_size=(3, 32, 32),
            num_classes=200,
            label_names=tuple((checkpoints.EMBEDDED / "tiny_imagenet_classes.txt").read_text(encoding="utf-8").splitlines()),
            crop_pct=1.0,
            file=str(checkpoints.EMBEDDED / "vim_nano_patch4_32.safetensors"),
            origin_url="",
            license="apache-2.0",
        ),
    }
)


def _create(variant: str, pretrained: bool, **kwargs: Any) -> VisionMamba:
    # timm would unpickle a .pth with its own settings: our reader fetches, checks and reads it, timm adapts the tensors
    overlay = kwargs.pop("pretrained_cfg_overlay", None) or {}
    source = "the weights"
    if pretrained and "state_dict" not in overlay:
        cfg = default_cfgs[variant].default.to_dict() | (_as_dict(kwargs.get("pretrained_cfg"))) | overlay
        path = checkpoints.locate(cfg)
        source = str(path)
        overlay = overlay | dict(state_dict=checkpoints.read_weights(path))
    out_indices = kwargs.pop("out_indices", 3)
    model: VisionMamba = build_model_with_cfg(
        VisionMamba,
        variant,
        pretrained,
        pretrained_cfg_overlay=overlay,
        pretrained_filter_fn=partial(checkpoints.adapt_to_model, source=source),
        feature_cfg=dict(out_indices=out_indices, feature_cls="getter"),
        **kwargs,
    )
    for cfg in (model.pretrained_cfg, model.default_cfg):
        cfg.pop("state_dict", None)  # keep no second copy of the weights
    return model


def _as_dict(cfg: Any) -> dict[str, Any]:
    if cfg is None or isinstance(cfg, str):
        return {}
    return cfg if isinstance(cfg, dict) else dict(cfg.to_dict())


@register_model
def vim_tiny_patch16_224(pretrained: bool = False, **kwargs: Any) -> VisionMamba:
    """Vim-Ti: 7.1 M parameters, 197 tokens."""
    return _create("vim_tiny_patch16_224", pretrained, **dict(dict(embed_dim=192), **kwargs))


@register_model
def vim_tiny_patch16_stride8_224(pretrained: bool = False, **kwargs: Any) -> VisionMamba:
    """Vim-Ti with overlapping patches: 730 tokens."""
    return _create("vim_tiny_patch16_stride8_224", pretrained, **dict(dict(embed_dim=192, stride=8), **kwargs))


@register_model
def vim_small_patch16_224(pretrained: bool = False, **kwargs: Any) -> VisionMamba:
    """Vim-S: 25.8 M parameters, 197 tokens."""
    return _create("vim_small_patch16_224", pretrained, **dict(dict(embed_dim=384), **kwargs))


@register_model
def vim_small_patch16_stride8_224(pretrained: bool = False, **kwargs: Any) -> VisionMamba:
    """Vim-S with overlapping patches: 730 tokens."""
    return _create("vim_small_patch16_stride8_224", pretrained, **dict(dict(embed_dim=384, stride=8), **kwargs))


@register_model
def vim_base_patch16_224(pretrained: bool = False, **kwargs: Any) -> VisionMamba:
    """Vim-B: 97.6 M parameters, 197 tokens."""
    return _create("vim_base_patch16_224", pretrained, **dict(dict(embed_dim=768), **kwargs))


@register_model
def vim_nano_patch4_32(pretrained: bool = False, **kwargs: Any) -> VisionMamba:
    """Ours, for 32-pixel images: 1.7 M parameters, 65 tokens; its weights, for Tiny ImageNet, ship with the package."""
    config = dict(img_size=32, patch_size=4, stride=4, embed_dim=128, depth=12, num_classes=200)
    return _create("vim_nano_patch4_32", pretrained, **dict(config, **kwargs))
