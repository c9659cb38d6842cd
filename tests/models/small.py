"""Small models for tests: 16 patches unless told otherwise, every parameter off its special value."""

from __future__ import annotations

from typing import Any

import torch
from timm.models import VisionTransformer
from torch import Tensor, nn

import svp
from svp.models import Backbone, VisionMamba
from svp.ops import BACKENDS

SMALL: dict[str, Any] = dict(img_size=16, patch_size=4, stride=4, embed_dim=16, depth=3, d_state=4, num_classes=5)


def small_vim(**overrides: Any) -> VisionMamba:
    """A registered model (so that timm's metadata is there) cut down to milliseconds; every call gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # of the processor alone: see `tests.conftest`
        return perturb(svp.create_model("vim_nano", **(SMALL | overrides)))


SMALL_VIT: dict[str, Any] = dict(img_size=16, patch_size=4, embed_dim=16, depth=3, num_heads=2, num_classes=5)


def small_vit(**overrides: Any) -> VisionTransformer:
    """A Vision Transformer of the same sizes."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # of the processor alone: see `tests.conftest`
        return perturb(svp.create_model("deit_small_patch16_224", **(SMALL_VIT | overrides)))


def images(model: Backbone, batch: int = 2, seed: int = 1) -> Tensor:
    """Normal noise of the model's size, in its dtype."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(batch, model.patch_embed.proj.weight.shape[1], *model.patch_embed.img_size, generator=generator)
    return noise.to(model.pos_embed.device, model.pos_embed.dtype)


@torch.no_grad()
def perturb(module: nn.Module, amount: float = 0.1, seed: int = 2) -> Any:
    """Add noise to every parameter: what starts at zero or one starts to matter."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
        parameter.add_(amount * noise.to(parameter.device, parameter.dtype))
    return module


def device_of(backend: str) -> str:
    """Where a backend runs."""
    return "cuda" if "gpu" in backend or "triton" in backend else "cpu"


def runnable_backends() -> list[str]:
    """Names in ``svp.ops.BACKENDS`` that this machine can run."""
    return [name for name in BACKENDS if device_of(name) == "cpu" or torch.cuda.is_available()]
