"""Learning rate over a run."""

from __future__ import annotations

from timm.scheduler import CosineLRScheduler
from torch.optim import Optimizer

from svp.training.config import TrainConfig


class Schedule:
    """Sets the optimizer's learning rate before every step, from the place in the run alone: nothing to save for a resume.

    "cosine", with s the step of S and W warm-up steps:
        lr = warmup_lr + s / W (peak - warmup_lr)                                        s < W
        lr = min_lr + (peak - min_lr) (1 + cos(pi (s - W) / (S - W))) / 2                s >= W
    "released": constant within an epoch; epoch e uses value(max(e - 1, 0)) of T epochs, with
        value(t) = warmup_lr + t / W (peak - warmup_lr)                                  t < W
        value(t) = min_lr + (peak - min_lr) (1 + cos(pi t / T)) / 2                      t >= W

    Source: "released" is the schedule of zhoujiahuan1991/AAAI2025-SVP, late by one epoch and never at its peak.

    Args:
        optimizer: Whose groups are set.
        config: Peak, ends and warm-up.
        steps_per_epoch: Optimizer steps of an epoch.
    """

    def __init__(self, optimizer: Optimizer, config: TrainConfig, steps_per_epoch: int) -> None:
        self.optimizer, self.config = optimizer, config
        self.per_epoch = config.schedule == "released"
        self.steps_per_epoch = steps_per_epoch
        self.plan(config.epochs)

    def plan(self, epochs: int) -> None:
        """Let the run have so many epochs."""
        config = self.config
        unit = 1 if self.per_epoch else self.steps_per_epoch
        warmup = round(min(config.warmup_epochs, epochs / 2) * unit)
        self._cosine = CosineLRScheduler(
            self.optimizer,
            t_initial=max(epochs * unit - (0 if self.per_epoch else warmup), 2),  # timm warns of 1
            lr_min=config.min_lr,
            warmup_t=warmup,
            warmup_lr_init=config.warmup_lr,
            warmup_prefix=not self.per_epoch,
        )

    def set(self, epoch: int, step: int) -> None:
        """Set the learning rate of step `step` of epoch `epoch`, both counted from 0."""
        self._cosine.step(max(epoch - 1, 0) if self.per_epoch else epoch * self.steps_per_epoch + step)
