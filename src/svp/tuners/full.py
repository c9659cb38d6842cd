"""Full fine-tuning, or training from scratch: every parameter of the model trains."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from svp.tuners.base import MethodConfig, Tuner, register_method


@dataclass(frozen=True)
class FullConfig(MethodConfig):
    """Full fine-tuning has no options."""


@register_method("full", FullConfig)
class FullTuner(Tuner[FullConfig]):
    """Train everything."""

    default_lr = 2e-4
    default_weight_decay = 0.05
    self_contained = True
    mergeable = True

    def attach(self) -> Iterable[str]:
        return [name for name, _ in self.model.named_parameters()]
