"""Linear probe: the backbone is frozen, only the head trains. d C + C values for C classes and width d."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from svp.tuners.attachment import Attachment
from svp.tuners.method import Method, register_method


@register_method("linear", title="linear probe")
@dataclass(frozen=True)
class LinearProbe(Method):
    """Train the head only."""

    backbones = (nn.Module,)
    default_lr = 1e-2
    default_weight_decay = 1e-4
    mergeable = True

    def attach(self, site: Attachment) -> Iterable[str]:
        return ()
