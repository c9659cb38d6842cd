"""Linear probe: the backbone is frozen, only the head trains. d C + C values for C classes and width d."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from svp.tuners.base import MethodConfig, Tuner, register_method


@dataclass(frozen=True)
class LinearConfig(MethodConfig):
    """The linear probe has no options."""


@register_method("linear", LinearConfig)
class LinearTuner(Tuner[LinearConfig]):
    """Train the head only."""

    default_lr = 1e-2
    default_weight_decay = 1e-4
    mergeable = True

    def attach(self) -> Iterable[str]:
        return ()
