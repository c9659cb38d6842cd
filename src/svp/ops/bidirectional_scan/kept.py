"""What the forward pass makes of the weights for the kernels is kept for the backward pass.

It is kept as long as A lives, which a mixer computes anew in every forward pass, so it goes with the graph that holds that A.
Nothing is kept from one step to the next, or a weight that changed through ``.data``, which PyTorch does not count, would be
missed.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

_A = 5  # its place among the weights
_kept: Any = WeakTensorKeyDictionary()  # not annotated


def keep_for_backward(weights: list[Tensor], converted: Any) -> None:
    """Keep what was made of these weights."""
    if not any(weight.is_inference() for weight in weights):  # there is no backward pass then, and nothing counts changes
        _kept[weights[_A]] = _state_of(weights), converted


def kept_for_backward(weights: list[Tensor]) -> Any:
    """What was kept, if the very same weights have not changed since; else None."""
    state, converted = _kept.get(weights[_A], (None, None))
    return converted if state == _state_of(weights) else None


def _state_of(weights: list[Tensor]) -> list[tuple[int, int]]:
    return [(id(weight), weight._version) for weight in weights]
