"""The Vims by name, registered with timm: their sizes and where their published weights are."""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, get_pretrained_cfg, register_model

from svp.models import checkpoints
from svp.models.vision_mamba import VisionMamba


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


def _nano(tag: str) -> dict[str, Any]:
    names = (checkpoints.EMBEDDED / f"{tag}_classes.txt").read_text(encoding="utf-8").splitlines()
    return _cfg(
        input_size=(3, 32, 32),
        num_classes=len(names),
        label_names=tuple(names),
        crop_pct=1.0,
        file=str(checkpoints.EMBEDDED / f"vim_nano_patch4_32.{tag}.safetensors"),
        origin_url="",
        license="apache-2.0",
    )


# the first weights of a model are those that its name alone means
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
        "vim_nano_patch4_32.tiny_in200": _nano("tiny_in200"),
    }
)

BEFORE_TAGS = {"vim_nano_patch4_32": "tiny_in200"}
"""Models whose name alone has meant other weights: the tag of those that it means in a file of before tags were recorded."""


def _create(variant: str, pretrained: bool, **kwargs: Any) -> VisionMamba:
    # timm would unpickle a .pth with its own settings: our reader fetches, checks and reads it, timm adapts the tensors
    overlay = kwargs.pop("pretrained_cfg_overlay", None) or {}
    source = "the weights"
    if pretrained and "state_dict" not in overlay:
        given = kwargs.get("pretrained_cfg")
        own = get_pretrained_cfg(f"{variant}.{given}" if isinstance(given, str) else variant)
        cfg = own.to_dict() | _as_dict(given) | overlay
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
    config = dict(img_size=32, patch_size=4, stride=4, embed_dim=128, depth=12)
    return _create("vim_nano_patch4_32", pretrained, **dict(config, **kwargs))
