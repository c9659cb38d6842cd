"""Features of a frozen backbone, computed once: where only the head trains, and every image comes the same each epoch.

One pass over the images gives what enters the head; epochs then train the head on that, and give the same weights but for
rounding: an image may be in another batch of the backbone than it would have been. Images that are varied, mixed, or lose
blocks to stochastic depth have other features every time, so nothing is kept of them.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from svp.data import make_loader, normalized
from svp.data.fingerprints import file_state
from svp.data.pipeline.cache import MAX_MEMORY
from svp.data.pipeline.features import FeatureDataset
from svp.data.pipeline.shared import Shared
from svp.runs.predict import logits_and_features
from svp.training.config import TrainConfig
from svp.training.setup import Prepared, weights_file

_FEATURE_BYTES = 4


class HeadOnly(nn.Module):
    """The head of a model, as a model of features: (batch, embed_dim) to logits, (batch, classes)."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.head(features)
        return logits


class FeatureStore:
    """Keeps the features of the images of a run, for itself and for the candidates that search its settings.

    Args:
        between_runs: Whether runs of other settings use it too; features of test images are then kept as well.
        processes: How many processes of this machine keep features, each its own.
    """

    def __init__(self, between_runs: bool = False, processes: int = 1) -> None:
        self._between_runs = between_runs
        self._kept: Shared[FeatureDataset] = Shared(lambda kept: kept.features.nbytes, processes=processes)
        self._seconds_per_image: float | None = None

    def used_by(self, prepared: Prepared) -> Prepared:
        """The run on features in the place of images where that gives the same; as it is where not, which it says.

        Only its model, its loaders of training and validation images, and the time of an image change: the test images are
        read once anyhow.
        """
        config, accelerator, say = prepared.config, prepared.accelerator, prepared.display.say
        if prepared.tuner.num_trainable_without_head:
            return prepared
        if causes := what_varies(config):
            remedy = "; --no-augment computes its features once" if causes == ["augmentation"] else ""
            say(f"the frozen backbone computes anew every epoch, because of {' and '.join(causes)}{remedy}")
            return prepared
        loaders = {"training": prepared.train_loader, "scored": prepared.scored_loader}
        images = sum(len(loader.dataset) for loader in loaders.values())  # type: ignore[arg-type, misc]
        needed = images * prepared.model.num_features * _FEATURE_BYTES
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", accelerator.num_processes))
        if needed * processes > MAX_MEMORY * psutil.virtual_memory().available:
            say(f"the frozen backbone computes anew every epoch: features of all images take {needed / 1e9:.1f} GB of memory")
            return prepared
        features = {part: self._features(prepared, part, loader) for part, loader in loaders.items()}
        if not all(bool(torch.isfinite(kept.features).all()) for kept in features.values()):
            return prepared  # whose first step will say where that begins
        head = HeadOnly(prepared.model.get_classifier())
        sizes = {part: _batch_size(loader) for part, loader in loaders.items()}
        train_loader = make_loader(
            features["training"],
            sizes["training"],
            train=True,
            balanced=config.balance == "sampler",
            seed=config.seed,
            drop_last=True,
        )
        scored_loader = make_loader(features["scored"], sizes["scored"], train=False)
        wrapped, train_loader, scored_loader = accelerator.prepare(head, train_loader, scored_loader)
        return replace(
            prepared,
            wrapped=wrapped,
            train_loader=train_loader,
            scored_loader=scored_loader,
            seconds_per_image=self._seconds_per_image,
        )

    def tested_by(self, prepared: Prepared) -> Prepared:
        """The run with features in the place of its test images, where other runs need them too."""
        if not self._between_runs or prepared.tuner.num_trainable_without_head or prepared.accelerator.num_processes > 1:
            return prepared
        kept = self._features(prepared, "test", prepared.test_loader)
        if not bool(torch.isfinite(kept.features).all()):
            return prepared
        loader = make_loader(kept, _batch_size(prepared.test_loader), train=False)
        wrapped, loader = prepared.accelerator.prepare(HeadOnly(prepared.model.get_classifier()), loader)
        return replace(prepared, wrapped=wrapped, test_loader=loader)

    def _features(self, prepared: Prepared, part: str, loader: DataLoader[Any]) -> FeatureDataset:
        dataset: Any = loader.dataset
        config, weights = prepared.config, weights_file(prepared.config.weights)
        seed = config.seed if part == "training" or config.weights == "random" else None  # of the order, or of the weights
        backbone = config.model, config.weights, file_state(weights), config.img_size, config.channels, seed
        decode = config.decode if part == "training" else None
        key = part, dataset.split, prepared.inputs, decode, _batch_size(loader), config.precision, backbone
        return self._kept.get(key, lambda: self._compute(prepared, part, dataset, loader))

    @torch.no_grad()
    def _compute(self, prepared: Prepared, part: str, dataset: Any, loader: DataLoader[Any]) -> FeatureDataset:
        """One pass over the images of a part: those to train on in the batches of the first epoch."""
        accelerator, display = prepared.accelerator, prepared.display
        passed = make_loader(
            dataset,
            _batch_size(loader),
            train=part == "training",
            seed=prepared.config.seed,
            num_workers=loader.num_workers,
            pin_memory=loader.pin_memory,
        )
        passed = accelerator.prepare(passed)
        prepared.model.eval()
        rows: list[tuple[Tensor, Tensor, Tensor]] = []
        started = time.perf_counter()
        with display.progress(f"features of {part} images", len(passed)) as (bar, task):
            for images, labels, indices in normalized(passed, prepared.inputs):
                _, features = logits_and_features(prepared.model, images)
                gathered = accelerator.gather((features, labels, indices))
                rows.append(tuple(tensor.cpu() for tensor in gathered))
                bar.update(task, advance=1)
        seconds = time.perf_counter() - started
        self._seconds_per_image = seconds / len(dataset)
        features, labels, indices = (torch.cat(column) for column in zip(*rows, strict=True))
        places = torch.where(indices < 0, -1 - indices, indices)  # of an image that another stands in for
        order = torch.empty(len(dataset), dtype=torch.long)
        order[places] = torch.arange(len(places))
        display.say(
            f"features of {len(dataset):,} {part} images are computed once ({seconds:.1f} s), as only the head trains and no "
            "image is varied"
        )
        return FeatureDataset(dataset.split, features[order], labels[order], indices[order])


def what_varies(config: TrainConfig) -> list[str]:
    """What makes the features of a training image other ones every epoch, in words; empty if nothing does."""
    varied = {
        "augmentation": config.augment.varies,
        "mixup": bool(config.mixup),
        "CutMix": bool(config.cutmix),
        "stochastic depth": bool(config.drop_path),
    }
    return [name for name, does in varied.items() if does]


def _batch_size(loader: DataLoader[Any]) -> int:
    """Images of a batch over all processes."""
    return int(loader.total_batch_size)  # type: ignore[attr-defined]
