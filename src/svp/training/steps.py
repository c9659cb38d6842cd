"""One pass over the training images."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from svp.data import normalized
from svp.training.nonfinite import LossOnItsWay, explain_nonfinite
from svp.training.plan import StepTimes
from svp.training.setup import Prepared


def train_epoch(prepared: Prepared, epoch: int, times: StepTimes) -> float:
    """One pass over the training images; returns the mean loss.

    Args:
        prepared: The run.
        epoch: Number of the epoch, counted from 0.
        times: Takes the time of every step.
    """
    config, loader, accelerator = prepared.config, prepared.train_loader, prepared.accelerator
    prepared.wrapped.train()
    loader.set_epoch(epoch)  # type: ignore[attr-defined]
    total = torch.zeros((), device=accelerator.device)
    indices: list[Tensor] = []
    with prepared.display.progress(f"epoch {epoch + 1}", len(loader)) as (bar, task):
        for step, (images, labels, index) in enumerate(times.of(normalized(loader, prepared.inputs))):
            prepared.schedule.set(epoch, step)
            if config.check != "all":
                indices.append(index)
            loss = loss_of(prepared, images, labels)
            on_its_way = LossOnItsWay(accelerator.reduce(loss.detach(), "mean"))  # all processes stop together, or none
            accelerator.backward(loss)
            value = on_its_way.value()
            if not np.isfinite(value):  # before the step: the weights are still those that gave this loss
                paths = [prepared.train_images.paths[i if i >= 0 else -1 - i] for i in index.tolist()]
                model = accelerator.unwrap_model(prepared.wrapped)
                raise explain_nonfinite(model, images, loss.item(), epoch, step, paths)
            if config.clip_grad:
                accelerator.clip_grad_norm_(prepared.tuner.trainable_parameters(), config.clip_grad)
            prepared.optimizer.step()
            prepared.optimizer.zero_grad()
            if prepared.average is not None:
                prepared.average.update(epoch * len(loader) + step + 1)
            total += loss.detach()
            bar.update(task, advance=1, note=f"loss {value:.3f}")
    if indices:
        late = [-1 - i for i in torch.cat(indices).tolist() if i < 0]
        prepared.late.add(prepared.train_images, late, gathered=False)
    mean: Tensor = accelerator.reduce(total / len(loader), reduction="mean")
    return mean.item()


def loss_of(prepared: Prepared, images: Tensor, labels: Tensor) -> Tensor:
    if prepared.mixup is not None:
        images, labels = prepared.mixup(images, labels)
    return prepared.criterion(prepared.wrapped(images), labels)
