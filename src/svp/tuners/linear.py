"""Linear probe: the backbone is frozen, only the head trains. d C + C values for C classes and width d."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from svp.tuners.base import Method, MethodConfig, register_method

if TYPE_CHECKING:
    from svp.tuners.tuner import Tuner


@dataclass(frozen=True)
class LinearConfig(MethodConfig):
    """The linear probe has no options."""


@register_method("linear", LinearConfig, title="linear probe")
class LinearMethod(Method[LinearConfig]):
    """Train the head only."""

    backbones = (nn.Module,)
    default_lr = 1e-2
    default_weight_decay = 1e-4
    mergeable = True

    def attach(self, tuner: Tuner) -> Iterable[str]:
        return ()
