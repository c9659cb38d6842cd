"""Full fine-tuning, or training from scratch: every parameter of the model trains."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from svp.tuners.base import Method, MethodConfig, register_method

if TYPE_CHECKING:
    from svp.tuners.tuner import Tuner


@dataclass(frozen=True)
class FullConfig(MethodConfig):
    """Full fine-tuning has no options."""


@register_method("full", FullConfig, title="full fine-tuning")
class FullMethod(Method[FullConfig]):
    """Train everything."""

    backbones = (nn.Module,)
    default_lr = 2e-4
    default_weight_decay = 0.05
    self_contained = True
    mergeable = True

    def attach(self, tuner: Tuner) -> Iterable[str]:
        return [name for name, _ in tuner.model.named_parameters()]
