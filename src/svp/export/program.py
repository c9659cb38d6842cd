"""A tuned model as one program of PyTorch's own operators: what every exported file is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.overrides import TorchFunctionMode

from svp.data import InputConfig
from svp.errors import UnavailableError
from svp.ops import use_backend
from svp.tasks import SINGLE_LABEL, Task

MINIMUM_TORCH = (2, 9)
"""The first release whose ``scan`` operator can be saved, and written as ONNX."""


class Classifier(nn.Module):
    """Normalization, the model and what makes probabilities or numbers of its outputs: a file needs no constants beside it.

    Args:
        model: Gives logits.
        inputs: Holds mean and std.
        task: What the outputs mean.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, inputs: InputConfig, task: Task = SINGLE_LABEL) -> None:
        super().__init__()
        self.task = task
        self.model = model
        self.register_buffer("mean", torch.tensor(inputs.mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(inputs.std).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Images in 0..1, (batch, channels, img_size, img_size) -> probabilities or numbers, (batch, outputs)."""
        return self.task.activate(self.model((images - self.mean) / self.std))


def trace(model: nn.Module, inputs: InputConfig, task: Task = SINGLE_LABEL) -> ExportedProgram:
    """The classifier as a ``torch.export`` program that takes any batch size and runs without svp.

    Args:
        model: In evaluation mode, float32, on the CPU; it is frozen.
        inputs: What it is fed with.
        task: What its outputs mean.

    Raises:
        RuntimeError: This PyTorch is too old.
    """
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < MINIMUM_TORCH:
        minimum = ".".join(map(str, MINIMUM_TORCH))
        raise UnavailableError(f"export needs PyTorch {minimum} or newer, this is {torch.__version__}: pip install -U torch")
    classifier = Classifier(model, inputs, task).eval().requires_grad_(False)  # the scan of what trains would have a backward
    example = torch.zeros(2, inputs.channels, inputs.img_size, inputs.img_size)  # a batch of one would be taken for a constant
    with torch.no_grad(), use_backend("any_device"), _ScanAsOneNode():
        return torch.export.export(classifier, (example,), dynamic_shapes={"images": {0: Dim("batch")}})


class _ScanAsOneNode(TorchFunctionMode):
    """Put ``scan_as_one_node`` in the place of our own operator, which nobody else knows."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.ops.svp.selective_scan.default:
            return scan_as_one_node(*args)
        return func(*args, **(kwargs or {}))


def scan_as_one_node(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    initial_state: Tensor | None,
    reverse: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """``svp::selective_scan`` with its loop in PyTorch's ``scan`` operator, which ONNX has too.

    Unrolled, the loop would fill the file with some ten nodes per token, direction and layer.

    Returns:
        y, (batch, length, d_inner), and the last state, (batch, d_inner, d_state).
    """
    step = F.softplus(dt if dt_bias is None else dt + dt_bias)
    # the operator runs over the first axis, forward, and wants states that keep their strides
    sequences = [t.transpose(0, 1).contiguous() for t in (step, step * x, B, C)]
    if reverse:
        sequences = [t.flip(0) for t in sequences]
    h = x.new_zeros(x.shape[0], A.shape[1], A.shape[0])
    if initial_state is not None:
        h = h + initial_state.transpose(1, 2)
    h, y = torch.ops.higher_order.scan(_token, [h], sequences, (A.T.contiguous(),))
    y = (y.flip(0) if reverse else y).transpose(0, 1)
    if D is not None:
        y = y + D * x
    if z is not None:
        y = y * F.silu(z)
    return y, h.transpose(1, 2)


def _token(h: Tensor, step: Tensor, step_x: Tensor, B: Tensor, C: Tensor, A: Tensor) -> list[Tensor]:
    """The next state, (batch, d_state, d_inner), and y; channels last in memory, which they are many of."""
    h = torch.exp(step.unsqueeze(1) * A) * h + step_x.unsqueeze(1) * B.unsqueeze(-1)
    return [h, (C.unsqueeze(1) @ h).squeeze(1)]
