"""A program as a file of ``torch.export``, which PyTorch alone can run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from svp.export.recurrences import in_chunks

SUFFIX = ".pt2"
RUNTIME = "torch.export"
recurrence = in_chunks


def require() -> None:
    """Nothing is needed but PyTorch."""


def write(program: ExportedProgram, metadata: Mapping[str, str], path: Path) -> None:
    """Write the program with `metadata` as its extra files."""
    with path.open("wb") as file:
        torch.export.save(program, file, extra_files=dict(metadata))


def load(path: Path) -> Callable[[Tensor], Tensor]:
    """Images to what it gives by the program that was read back."""
    with path.open("rb") as file:
        return torch.export.load(file).module()
