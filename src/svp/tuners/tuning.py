"""The one way to attach methods to a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from svp.tuners.method import Method, parse_methods
from svp.tuners.tuner import Tuner


def tune(
    model: nn.Module,
    method: str | Method | Sequence[Method] | Mapping[str, Any] = "svp",
    *,
    images: Iterable[Tensor] | None = None,
    **options: Any,
) -> Tuner:
    """Freeze `model`, attach tuning methods to it, and return the tuner.

    Args:
        model: A backbone with the head to train (``svp.create_model(..., num_classes=...)``).
        method: One of ``svp.list_methods()``, or several joined by "+", attached in that order; or a method itself with its
            options, ``svp.tuners.SVP(hidden_dim=32)``, or several; or a mapping {name: {option: value}}.
        images: Batches of training images, prepared for the model, for methods that look at some before they are attached
            (``dam_vp``, ``spt_shallow``, ``spt_deep``), which otherwise start without; others leave them alone.
        **options: Options of a method that is named; of several, a mapping for each by its name:
            ``svp.tune(model, "svp+lora", svp=dict(hidden_dim=32))``.

    Raises:
        InputError: Unknown method or option, a value out of range, a model that is tuned already or of a kind that the method
            does not work on.
    """
    methods, values = parse_methods(method, **options), dict[str, Tensor]()
    if images is not None and getattr(model, "tuner", None) is None:
        methods, values = fit(model, methods, images)
    tuner = Tuner(model, methods)
    tuner.start_at(values)
    return tuner


@torch.no_grad()
def fit(
    model: nn.Module, methods: Mapping[str, Method], images: Iterable[Tensor]
) -> tuple[dict[str, Method], dict[str, Tensor]]:
    """Let methods look at training images, see ``Method.fitted``.

    Args:
        model: The untuned model; left as it is.
        methods: What is to be attached, by name.
        images: Batches of training images, prepared for the model; read if a method asks for some.

    Returns:
        The methods that are to be attached, by name, and what ``Tuner.start_at`` takes.
    """
    asking = [method for method in methods.values() if method.num_images]
    if not asking:
        return dict(methods), {}
    for method in asking:
        method.check_backbone(model)
    batches, training = list(images), model.training
    model.eval()
    try:
        found = {
            name: method.fitted(model, batches) if method.num_images else (method, {}) for name, method in methods.items()
        }
    finally:
        model.train(training)
    return {name: method for name, (method, _) in found.items()}, {
        name: value for _, values in found.values() for name, value in values.items()
    }
