"""DAM-VP: every image gets the frame of pixels that was learned for the group of training images it resembles.

    clusters       average linkage of f(x) over up to 1,000 training images, up to a distance `threshold`;  p_k: their means
    k(x)           argmin_k |f(x) - p_k|                     f: the feature of the frozen model, scaled to length 1
    images         x <- x + frame_{k(x)}

How many clusters there are follows from the images: the more diverse they are, the more. The choice takes a pass of the frozen
model without gradient in front of the one that is trained. The frames start at zero, so training starts at the plain backbone.

What trains: the frames and the head. Without head, with C channels, H x W pixels, width w and K clusters:
K 2 C w (H + W - 2 w);  69,840 for each cluster at 224 pixels and the default of 30.

Source: Huang et al., "Diversity-Aware Meta Visual Prompting", CVPR 2023, arXiv:2303.08138, in the form whose head trains and
without meta-training, as in its ablation: the frames from which it starts, learned on other data sets, are not at hand (its
own start at random values then). There the threshold is a Euclidean distance that is set by hand for each backbone (10 to 31);
none is given for Vim. We choose: features of length 1, so that one threshold does for all backbones, and its value (a thousand
images of CIFAR-10 give some 50 clusters with vim_nano, the digits one); training images as they are scored, without
augmentation, to make the clusters of; AdamW in the place of SGD.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svp.errors import InputError
from svp.tuners.attachment import Attachment
from svp.tuners.backbones import VIM_AND_VIT
from svp.tuners.method import Method, check_finite_features, register_method
from svp.tuners.vp import Frame


@register_method("dam_vp", title="DAM-VP")
@dataclass(frozen=True)
class DAMVP(Method):
    """A learned frame for every cluster of training images, chosen by the nearest prototype; found at ``model.dam_vp``.

    It needs the training images: ``svp train`` shows it some, ``svp.tune(model, "dam_vp", images=batches)`` does so in Python.
    Without images all prototypes are zero, and every image gets the first frame.

    Args:
        num_prompts: Clusters, and so frames; if None as many as `threshold` gives (without images, one).
        threshold: Distance up to which clusters are joined, 0 to 2, where `num_prompts` is None.
        width: Pixels of the frames on every side, at least one and less than half the image; if None 30 of 224, in proportion.
    """

    backbones = VIM_AND_VIT
    default_lr = 3e-2
    default_weight_decay = 0.0
    num_images = 1000

    num_prompts: int | None = None
    threshold: float = 1.25
    width: int | None = None

    def __post_init__(self) -> None:
        if self.num_prompts is not None and not 1 <= self.num_prompts <= self.num_images:
            raise InputError(f"dam_vp: num_prompts is {self.num_prompts:,}, expected 1 to {self.num_images:,}")
        if not 0 < self.threshold < 2:
            raise InputError(f"dam_vp: threshold is {self.threshold}, expected a number between 0 and 2")
        if self.width is not None and self.width < 1:
            raise InputError(f"dam_vp: width is {self.width}, expected 1 or more")

    def fitted(self, model: nn.Module, images: Iterable[Tensor]) -> tuple[Method, dict[str, Tensor]]:
        from sklearn.cluster import AgglomerativeClustering

        found = torch.cat([features(model, batch) for batch in images])[: self.num_images]
        check_finite_features(self.name, found)
        if self.num_prompts is not None and len(found) < self.num_prompts:
            raise InputError(f"dam_vp: num_prompts is {self.num_prompts}, expected at most the {len(found)} training images")
        labels = torch.zeros(len(found), dtype=torch.long)
        if len(found) > 1:
            threshold = self.threshold if self.num_prompts is None else None
            clusters = AgglomerativeClustering(self.num_prompts, distance_threshold=threshold, linkage="average")
            labels = torch.from_numpy(clusters.fit_predict(found.cpu().numpy()))
        prototypes = torch.stack([found[(labels == k).to(found.device)].mean(dim=0) for k in range(int(labels.max()) + 1)])
        return replace(self, num_prompts=len(prototypes)), {"dam_vp.prototypes": prototypes}

    def attach(self, site: Attachment) -> Iterable[str]:
        if site.label != self.name:
            raise InputError(
                f"the methods of {site.label!r} cannot be combined: dam_vp compares features of the frozen model alone"
            )
        frames = Frames(site.model, self)
        for taking_images in ("forward_features", "forward_intermediates"):
            site.replace(taking_images, _OfFramed(site.model, taking_images, frames))
        return site.add("dam_vp", frames)


class Frames(Frame):
    """The frames of all clusters.

    Attributes:
        prototypes: Mean feature of every cluster, (clusters, num_features); not trained.
    """

    prototypes: Tensor

    def __init__(self, model: Any, config: DAMVP) -> None:
        several = config.num_prompts or 1
        super().__init__(config.name, model, config.width, (several,))
        self.register_buffer("prototypes", self.top.new_zeros(several, model.num_features))

    def nearest(self, features: Tensor) -> Tensor:
        """Number of the cluster of each image, by its feature, (batch, num_features)."""
        return (features.unsqueeze(1) - self.prototypes).square().sum(dim=-1).argmin(dim=1)


class _OfFramed:
    """Stands in the place of a method of the model that takes images, and gives it the framed ones."""

    def __init__(self, model: Any, method: str, frames: Frames) -> None:
        self.model, self.method, self.frames = model, method, frames

    def __call__(self, images: Tensor, *args: Any, **kwargs: Any) -> Any:
        chosen = self.frames.nearest(features(self.model, images))
        return getattr(type(self.model), self.method)(self.model, self.frames(images, chosen), *args, **kwargs)


@torch.no_grad()
def features(model: Any, images: Tensor) -> Tensor:
    """What the frozen model sees in the images as they are, (batch, num_features), scaled to length 1."""
    frozen = _in_evaluation(model) if model.training else model
    tokens = type(model).forward_features(frozen, images)
    return F.normalize(frozen.forward_head(tokens, pre_logits=True).float(), dim=-1)


def _in_evaluation(module: Any) -> Any:
    """The same module in evaluation mode, of the same parameters; the module that other threads see keeps its mode."""
    twin = copy(module)
    twin.training = False
    twin._modules = {name: child and _in_evaluation(child) for name, child in module._modules.items()}
    return twin
