"""A loss that is not finite, explained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from svp.errors import SvpError
from svp.tuners import Tuner


class NonFiniteLossError(SvpError, RuntimeError):
    """Training met a loss that is NaN or infinite; the message names the step, the batch and the first layer affected."""


def explain_nonfinite(
    model: nn.Module, images: Tensor, loss: float, epoch: int, step: int, paths: Sequence[Path]
) -> NonFiniteLossError:
    """The error for a non-finite loss: runs the batch once more and finds the first module with a non-finite output.

    A finite `loss` is that of a process whose own batch did no harm.
    """
    if math.isfinite(loss):
        return NonFiniteLossError(
            f"the loss of another process is not finite at epoch {epoch + 1}, step {step + 1}: it says where"
        )
    if not bool(torch.isfinite(images).all()):
        where = "the images themselves hold non-finite values"
    else:
        name = first_nonfinite_module(model, images)
        where = (
            f"the first layer with a non-finite output is {name}"
            if name
            else "all layers' outputs are finite, the loss is not"
        )
    listed = ", ".join(str(path) for path in paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
    return NonFiniteLossError(
        f"loss is {loss} at epoch {epoch + 1}, step {step + 1}: {where}. Batch: {listed}. "
        "Try a lower --lr, --clip-grad 1, or --precision fp32; the last good state is kept in the run directory"
    )


def check_outcome(tuner: Tuner, loss: float, epoch: int) -> None:
    """Refuse an epoch that ended badly, before its weights replace good ones.

    Raises:
        NonFiniteLossError: The loss of the images scored after it, or a trained value, is NaN or infinite.
    """
    broken = next((name for name, value in tuner.state_dict().items() if not bool(torch.isfinite(value).all())), None)
    if broken is None and math.isfinite(loss):
        return
    where = f"{broken} holds non-finite values" if broken else "all trained values are finite"
    kept = f"the state after epoch {epoch} is kept in the run directory" if epoch else "no epoch was finished"
    raise NonFiniteLossError(
        f"after epoch {epoch + 1} the loss of the images scored after it is {loss}: {where}. "
        f"Try a lower --lr, --clip-grad 1, or --precision fp32; {kept}"
    )


@torch.no_grad()
def first_nonfinite_module(model: nn.Module, images: Tensor) -> str | None:
    """Name of the module whose output is the first, in the order of execution, to hold NaN or infinity."""
    found: list[str] = []

    def watch(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            tensors = output if isinstance(output, tuple) else (output,)
            if not found and any(isinstance(t, Tensor) and not bool(torch.isfinite(t).all()) for t in tensors):
                found.append(name)

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in model.named_modules() if name]
    try:
        model(images)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


class LossOnItsWay:
    """A loss that is copied from the device while the device goes on.

    Reading a number from a GPU waits until all that was asked of the GPU before is done. This copy is asked for right after
    the forward pass and read once the backward pass is under way, so the GPU always has work, and the loss is still known
    before the optimizer's step.
    """

    def __init__(self, loss: Tensor) -> None:
        self._loss = loss.detach()
        self._copied: torch.cuda.Event | None = None
        if loss.is_cuda:
            self._loss = self._loss.to("cpu", non_blocking=True)  # PyTorch takes pinned memory for it
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record()

    def value(self) -> float:
        if self._copied is not None:
            self._copied.synchronize()
        return self._loss.item()
