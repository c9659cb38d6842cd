"""Full fine-tuning, or training from scratch: every parameter of the model trains."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from svp.tuners.attachment import Attachment
from svp.tuners.method import Method, register_method


@register_method("full", title="full fine-tuning")
@dataclass(frozen=True)
class FullTuning(Method):
    """Train everything."""

    backbones = (nn.Module,)
    default_lr = 2e-4
    default_weight_decay = 0.05
    self_contained = True
    mergeable = True

    def attach(self, site: Attachment) -> Iterable[str]:
        site.fix_input_size()
        return [name for name, _ in site.model.named_parameters()]
