"""A tuned model as one program of PyTorch's own operators: what every exported file is made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from svp.data import InputConfig
from svp.errors import UnavailableError
from svp.export.operators import PlainOperators, Recurrence
from svp.ops import use_backend
from svp.ops.backend import resolve
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


def trace(model: nn.Module, inputs: InputConfig, recurrence: Recurrence, task: Task = SINGLE_LABEL) -> ExportedProgram:
    """The classifier as a ``torch.export`` program that takes any batch size and runs without svp.

    Args:
        model: In evaluation mode, float32, on the CPU; it is frozen.
        inputs: What it is fed with.
        recurrence: The loop of its scans.
        task: What its outputs mean.

    Raises:
        RuntimeError: This PyTorch is too old.
    """
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < MINIMUM_TORCH:
        minimum = ".".join(map(str, MINIMUM_TORCH))
        raise UnavailableError(f"export needs PyTorch {minimum} or newer, this is {torch.__version__}: pip install -U torch")
    classifier = Classifier(model, inputs, task).eval().requires_grad_(False)  # the scan of what trains would have a backward
    example = torch.zeros(2, inputs.channels, inputs.img_size, inputs.img_size)  # a batch of one would be taken for a constant
    resolve("numba", example)  # imports Numba now: while PyTorch 2.11 traces, Python's `max` is another
    with torch.no_grad(), use_backend("numba"), PlainOperators(recurrence):
        return torch.export.export(classifier, (example,), dynamic_shapes={"images": {0: Dim("batch")}})
