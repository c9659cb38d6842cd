"""The one way to attach methods to a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from svp.tuners.method import Method, parse_methods
from svp.tuners.tuner import Tuner


def tune(model: nn.Module, method: str | Method | Sequence[Method] | Mapping[str, Any] = "svp", **options: Any) -> Tuner:
    """Freeze `model`, attach tuning methods to it, and return the tuner.

    Args:
        model: A backbone with the head to train (``svp.create_model(..., num_classes=...)``).
        method: One of ``svp.list_methods()``, or several joined by "+", attached in that order; or a method itself with its
            options, ``svp.tuners.SVP(hidden_dim=32)``, or several; or a mapping {name: {option: value}}.
        **options: Options of a method that is named; of several, a mapping for each by its name:
            ``svp.tune(model, "svp+lora", svp=dict(hidden_dim=32))``.

    Raises:
        InputError: Unknown method or option, a value out of range, a model that is tuned already or of a kind that the method
            does not work on.
    """
    return Tuner(model, parse_methods(method, **options))
