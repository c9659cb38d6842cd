"""The one way to attach methods to a model."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from svp.errors import InputError
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
            (``dam_vp``, ``spt_shallow``, ``spt_deep``, ``readout``); without, these start as if there were nothing to see,
            with a warning. As many are read as are looked at.
        **options: Options of a method that is named; of several, a mapping for each by its name:
            ``svp.tune(model, "svp+lora", svp=dict(hidden_dim=32))``.

    Raises:
        InputError: Unknown method or option, a value out of range, a model that is tuned already or of a kind that the method
            does not work on, images that are no batches for this model.
    """
    methods, values = parse_methods(method, **options), dict[str, Tensor]()
    asking = [name for name, method in methods.items() if method.num_images]
    if images is not None and getattr(model, "tuner", None) is None:
        methods, values = fit(model, methods, images)
    tuner = Tuner(model, methods)
    if asking and images is None:
        warnings.warn(f"{', '.join(asking)}: no training images were given, see `images` of svp.tune", stacklevel=2)
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
        images: Batches of training images, prepared for the model; as many are read as the methods ask for.

    Returns:
        The methods that are to be attached, by name, and what ``Tuner.start_at`` takes.

    Raises:
        InputError: There are no images, or a method cannot do with these.
    """
    asking = [method for method in methods.values() if method.num_images]
    if not asking:
        return dict(methods), {}
    for method in asking:
        method.check_backbone(model)
    batches: Iterable[Tensor] = _first(images, max(method.num_images for method in asking))
    if len(asking) > 1:
        batches = list(batches)
    training = model.training
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


def _first(batches: Iterable[Tensor], number: int) -> Iterator[Tensor]:
    """The first `number` images, or all if they are fewer, in batches; a tensor is one batch."""
    left = number
    for batch in [batches] if isinstance(batches, Tensor) else batches:
        if batch.ndim != 4:
            raise InputError(f"images: a batch has the shape {tuple(batch.shape)}, expected (batch, channels, height, width)")
        if not batch.isfinite().all():
            raise InputError("images: a batch holds NaN or infinite values")
        yield batch[:left]
        left -= len(batch)
        if left <= 0:
            return
    if left == number:
        raise InputError("images: no training image was given")
