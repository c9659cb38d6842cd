"""Reading golden cases, and the one tolerance table."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

FOLDER = Path(__file__).parent

# float64: correct code is near 1e-14. float32: plain evaluation is near 1e-6 (outputs) and 5e-6 (gradients), see the README
TOLERANCE = {
    torch.float64: {"output": 1e-10, "grad": 1e-10},
    torch.float32: {"output": 1e-5, "grad": 1e-4},
}


@dataclass
class Case:
    """One golden case. Keys of the dictionaries lack the prefix: ``case.weight["head.bias"]``."""

    name: str
    config: dict[str, Any]
    weight: dict[str, Tensor] = field(default_factory=dict)
    input: dict[str, Tensor] = field(default_factory=dict)
    output: dict[str, Tensor] = field(default_factory=dict)
    grad: dict[str, Tensor] = field(default_factory=dict)
    debug: dict[str, Tensor] = field(default_factory=dict)


def load_case(name: str) -> Case:
    """The case of this stem."""
    case = Case(name, read_json(name)["config"])
    for key, tensor in load_file(FOLDER / f"{name}.safetensors").items():
        kind, _, rest = key.partition("/")
        getattr(case, kind)[rest] = tensor
    return case


def read_json(stem: str) -> dict[str, Any]:
    """A JSON file of this folder."""
    return json.loads((FOLDER / f"{stem}.json").read_text(encoding="utf-8"))


def error(ours: Tensor | None, golden: Tensor) -> float:
    """max |ours - golden| / max |golden|; infinite where ours is missing, of another shape or not finite."""
    if ours is None or ours.shape != golden.shape:
        return float("inf")
    difference = (ours.detach().double().cpu() - golden).abs().max().item()
    return difference / golden.abs().max().item() if difference == difference else float("inf")


def assert_close(ours: dict[str, Tensor | None], golden: dict[str, Tensor], limit: float) -> None:
    """Compare tensors by name, in order; the message names every miss and its error."""
    assert ours.keys() == golden.keys(), f"names differ: {sorted(ours.keys() ^ golden.keys())}"
    misses = {name: err for name in golden if not (err := error(ours[name], golden[name])) < limit}
    assert not misses, f"errors over {limit:g}, first to last: {misses}"
