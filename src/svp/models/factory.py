"""Models by name."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import timm
import torch
from timm.models import VisionTransformer

from svp.errors import InputError
from svp.models import checkpoints
from svp.models.vim import BEFORE_TAGS, default_cfgs
from svp.models.vision_mamba import VisionMamba

_logger = logging.getLogger(__name__)

ALIASES = {
    "vim_nano": "vim_nano_patch4_32",
    "vim_tiny": "vim_tiny_patch16_224",
    "vim_small": "vim_small_patch16_224",
    "vim_base": "vim_base_patch16_224",
}
"""Short names."""

_VISION_TRANSFORMERS = ("deit_small_patch16_224", "vit_base_patch16_224")
"""timm's, to compare with: the same patches, a class token in front, attention instead of scans."""

Backbone: TypeAlias = VisionMamba | VisionTransformer
"""What ``create_model`` gives."""

# ImageNet top-1 in percent and parameters in millions, as the model cards and the paper's table give them
_PUBLISHED = {
    "vim_tiny_patch16_224": 76.1,
    "vim_tiny_patch16_stride8_224": 78.3,
    "vim_small_patch16_224": 80.5,
    "vim_small_patch16_stride8_224": 81.6,
    "vim_base_patch16_224": 81.9,
}


@dataclass(frozen=True)
class ModelInfo:
    """Facts about a model: where its weights come from, their published accuracy and their terms."""

    name: str
    aliases: tuple[str, ...]
    tags: tuple[str, ...]
    parameters: int
    img_size: int
    weights: str
    sha256: str | None
    imagenet_top1: float | None
    license: str
    source: str


def list_models() -> list[str]:
    """Names that ``create_model`` takes, without the short aliases."""
    return sorted([*default_cfgs, *_VISION_TRANSFORMERS])


def full_name(name: str) -> str:
    """The registered name behind `name`, with the tag of weights that it may have.

    Raises:
        InputError: Unknown name or tag; lists the known ones.
    """
    short, _, tag = name.partition(".")
    resolved = ALIASES.get(short, short)
    if resolved not in list_models():
        raise InputError(f"unknown model {name!r}; known: {', '.join([*ALIASES, *list_models()])}")
    if not tag:
        return resolved
    if tag not in (known := weights_tags(resolved)):
        raise InputError(f"{resolved} has no weights {tag!r}; known: {', '.join(known) or 'none with a tag'}")
    return f"{resolved}.{tag}"


def weights_tags(name: str) -> tuple[str, ...]:
    """Tags of the published weights of a registered model; the first are those that the name alone means."""
    return tuple(default_cfgs[name].tags) if name in default_cfgs else ()


def name_with_weights(name: str) -> str:
    """The registered name behind `name`, with the tag of its published weights where the name alone has meant others."""
    resolved = full_name(name)
    return f"{resolved}.{weights_tags(resolved)[0]}" if resolved in BEFORE_TAGS else resolved


def tagged(name: str) -> str:
    """`name`, which may be an alias, with the tag of the weights that it means now, where it alone has meant others."""
    tag = name_with_weights(name).partition(".")[2]
    return f"{name.partition('.')[0]}.{tag}" if tag else name


def name_before_tags(name: str) -> str:
    """`name` without the tag, where a name alone meant these weights before tags were recorded; else with it."""
    short, _, tag = tagged(name).partition(".")
    return short if tag == BEFORE_TAGS.get(full_name(short), "") else f"{short}.{tag}"


def recorded_name(name: str) -> str:
    """The model of published weights that a file means by `name`: without a tag, it is of before tags were recorded."""
    tag = BEFORE_TAGS.get(ALIASES.get(name, name))
    return f"{name}.{tag}" if tag else name


def create_model(
    name: str,
    pretrained: bool | str | Path = False,
    num_classes: int | None = None,
    img_size: int | tuple[int, int] | None = None,
    **overrides: Any,
) -> Backbone:
    """Build a Vision Mamba by name, or one of timm's Vision Transformers to compare it with.

    Args:
        name: One of ``list_models()`` or a short alias (``vim_nano``, ``vim_tiny``, ``vim_small``, ``vim_base``). A tag behind
            a dot chooses among several published weights, as in timm: ``vim_nano.tiny_in200``.
        pretrained: True for the published weights (fetched once from the Hugging Face Hub, or placed by hand), or a file:
            a released ``.pth``, a ``.safetensors``. Only a head of another size may be missing from it.
        num_classes: Outputs of a fresh head; 0 for none; that of the weights if None.
        img_size: Input side in pixels; the position embedding is resized to it.
        **overrides: Further arguments of the model, such as ``drop_path_rate`` or ``depth``. With ``in_chans`` other than 3,
            weights for RGB are adapted as timm does it: summed over the colors for 1, else repeated and scaled by
            3 / ``in_chans``.

    Raises:
        ValueError: Unknown name or option; weights that do not fit (``WeightsError``).
    """
    resolved = full_name(name)
    kwargs = dict(overrides)
    if num_classes is not None:
        kwargs["num_classes"] = num_classes
    if img_size is not None:
        kwargs["img_size"] = img_size
    published = pretrained is True
    state = {} if isinstance(pretrained, bool) else checkpoints.read_weights(pretrained)
    if num_classes is None and "head.bias" in state:
        kwargs["num_classes"] = state["head.bias"].numel()
    if published and resolved in _VISION_TRANSFORMERS:  # timm's own way would fetch them without our checks and messages
        kwargs["pretrained_cfg_overlay"] = dict(state_dict=checkpoints.read_weights(fetch_weights(resolved)))
    model: Backbone = timm.create_model(resolved, pretrained=published, **kwargs)
    model.pretrained_cfg.pop("state_dict", None)  # keep no second copy of the weights
    weights = "published" if published else "random"
    resolved = name_with_weights(resolved) if published else resolved.partition(".")[0]
    if not isinstance(pretrained, bool):
        weights = str(Path(pretrained).resolve())
        report = checkpoints.load_into(model, state, str(pretrained))
        body = [n for n in (*report.missing, *report.unexpected) if not n.startswith("head.")]
        if body:
            raise checkpoints.WeightsError(f"{pretrained} is not a file of {resolved}: {report}")
        if report.missing or report.unexpected:
            _logger.warning("%s: %s%s", pretrained, report, "; the head starts fresh" if report.missing else "")
    if img_size is not None:
        overrides["img_size"] = img_size
    model.origin = Origin(resolved, weights, {name: overrides[name] for name in overrides if name not in ("device", "dtype")})
    return model


def fetch_weights(name: str) -> Path:
    """The file of a model's published weights, downloaded if it is not here yet.

    Raises:
        ValueError: Unknown name; the file cannot be had (``WeightsError``).
    """
    return checkpoints.locate(timm.get_pretrained_cfg(full_name(name)).to_dict())


@dataclass(frozen=True)
class Origin:
    """How a backbone was made, so that it can be made again: kept at ``model.origin`` and in every adapter file.

    Args:
        name: Full model name; published weights of which there are several add their tag.
        weights: "published", "random", or the path of a file.
        overrides: Further arguments of the model, such as ``img_size``; neither ``device`` nor ``dtype``.
        seed: Seed of random weights: the same seed gives the same weights only on the same kind of CPU.
    """

    name: str
    weights: str = "published"
    overrides: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None

    def build(self, num_classes: int | None = None, drop_path_rate: float = 0.0) -> Backbone:
        """The model. Random weights with a seed do not depend on `num_classes`, nor touch the global random state.

        Stochastic depth is for training: it is no part of what the model is.
        """
        options = self.overrides | ({"drop_path_rate": drop_path_rate} if drop_path_rate else {})
        if self.weights != "random" or self.seed is None:
            pretrained = {"published": True, "random": False}.get(self.weights, self.weights)
            model = create_model(self.name, pretrained, num_classes, **options)
            model.origin = replace(model.origin, overrides=self.overrides)
            return model
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            model = create_model(self.name, False, 0, **options)
            model.reset_classifier(model.pretrained_cfg["num_classes"] if num_classes is None else num_classes)
        model.origin = self
        return model


def model_info(name: str) -> ModelInfo:
    """Facts about a model, without loading its weights."""
    resolved = full_name(name)
    model_name = resolved.partition(".")[0]
    cfg = timm.get_pretrained_cfg(resolved).to_dict()
    model = timm.create_model(resolved, device="meta")
    embedded = cfg.get("file")
    return ModelInfo(
        name=resolved,
        aliases=tuple(alias for alias, target in ALIASES.items() if target == model_name),
        tags=weights_tags(model_name),
        parameters=sum(p.numel() for p in model.parameters()),
        img_size=cfg["input_size"][-1],
        weights=f"embedded ({Path(embedded).name})" if embedded else ": ".join(checkpoints.hub_file(cfg)),
        sha256=checkpoints.file_sha256(Path(embedded)) if embedded else checkpoints.SHA256.get(cfg.get("hf_hub_filename", "")),
        imagenet_top1=_PUBLISHED.get(model_name),
        license=cfg["license"],
        source=cfg.get("origin_url") or ("this package" if embedded else f"https://huggingface.co/{cfg['hf_hub_id']}"),
    )
