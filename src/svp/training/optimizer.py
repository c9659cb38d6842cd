"""AdamW over what trains, with a learning rate of its own for the head where one is asked for."""

from __future__ import annotations

from timm.optim import create_optimizer_v2
from torch import nn
from torch.optim import Optimizer

from svp.training.config import TrainConfig


def make_optimizer(model: nn.Module, config: TrainConfig, peak_lr: float) -> Optimizer:
    """AdamW; weight decay acts on matrices only.

    Args:
        model: What of it needs a gradient trains.
        config: Weight decay, and `head_lr`.
        peak_lr: Peak learning rate, scaled with the batch size if the settings say so; the head's is scaled alike.
    """
    optimizer = create_optimizer_v2(model, opt="adamw", lr=peak_lr, weight_decay=config.weight_decay, fused=True)
    if config.head_lr is not None:
        head = {id(parameter) for parameter in model.get_submodule("head").parameters()}
        own_rate = config.head_lr * peak_lr / config.rate
        groups = list(optimizer.param_groups)
        optimizer.param_groups.clear()
        for of_head in (False, True):  # the head last: what is shown as the learning rate is the method's
            for group in groups:
                own = [parameter for parameter in group["params"] if (id(parameter) in head) == of_head]
                if own:
                    optimizer.add_param_group({**group, "params": own, "lr": own_rate if of_head else group["lr"]})
    return optimizer
