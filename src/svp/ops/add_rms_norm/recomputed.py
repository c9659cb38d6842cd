"""The kernels with prompts whose pre-activations are computed again in the backward pass instead of being kept for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from svp.ops.add_rms_norm.library import add_rms_norm_backward_op, add_rms_norm_op
from svp.ops.add_rms_norm.reference import LinearPrompt, Prompt
from svp.ops.library import first_derivatives
from svp.ops.linear import linear, linear_gradients

_OF_A_PROMPT = 6  # tensors: scale, source, weight and bias of the first map, weight and bias of the last


def add_rms_norm_recomputed(
    hidden: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    terms: Sequence[Prompt | LinearPrompt],
    scales: Sequence[Tensor],
    prompted: Tensor | None,
    *options: Any,
) -> tuple[Tensor, Tensor]:
    """``add_rms_norm_op``; kept are r and, of a prompt that is a linear map, what the maps are applied to."""
    flat: list[Tensor | None] = []
    for term, scale in zip(terms, scales, strict=True):
        source = None if term[0] is hidden else term[0]  # given once, it gets one gradient
        if isinstance(term, LinearPrompt):
            flat += [scale, source, *(term.first or (None, None)), term.weight, term.bias]
        else:
            flat += [scale, source, None, None, None, None]
    total, normed = _Recomputed.apply(options, hidden, residual, weight, prompted, *flat)
    return total, normed


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, options: Any, hidden: Tensor, residual: Tensor | None, weight: Tensor, prompted: Tensor | None, *flat: Any
    ) -> tuple[Tensor, Tensor]:
        mapped: list[Tensor] = []
        pre_activations: list[Tensor] = []
        reads_hidden = False
        for _, source, first, first_bias, last, bias in _prompts_of(flat):
            reads_hidden |= source is None
            inner = hidden if source is None else source
            if first is not None:
                inner = linear(inner, first, first_bias)
                mapped.append(inner)
            pre_activations.append(inner if last is None else linear(inner, last, bias))
        scales = list(flat[::_OF_A_PROMPT])
        total, normed = add_rms_norm_op(hidden, residual, weight, pre_activations, scales, prompted, *options)
        ctx.options, ctx.autocast = options, _autocast_of(hidden.device.type)
        ctx.hidden_dtype = hidden.dtype
        ctx.save_for_backward(total, weight, prompted, hidden if reads_hidden else None, *flat, *mapped)
        return total, normed

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return first_derivatives("add_rms_norm", ctx, grads, lambda: _Recomputed.gradients(ctx, grads))

    @staticmethod
    def gradients(ctx: Any, grads: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
        total, weight, prompted, hidden, *saved = ctx.saved_tensors
        _, of_hidden, of_residual, of_weight, _, *of_flat = ctx.needs_input_grad
        flat, mapped = saved[: len(of_flat)], iter(saved[len(of_flat) :])
        sources: list[Tensor] = []
        inputs: list[Tensor] = []  # of the last maps
        pre_activations: list[Tensor] = []
        with _autocast(*ctx.autocast):
            for _, source, first, _, last, bias in _prompts_of(flat):
                sources.append(hidden if source is None else source)
                inputs.append(sources[-1] if first is None else next(mapped))
                pre_activations.append(inputs[-1] if last is None else linear(inputs[-1], last, bias))
        of_prompts = [
            (of_scale, of_hidden if source is None else of_source, *of_maps)
            for (_, source, *_), (of_scale, of_source, *of_maps) in zip(_prompts_of(flat), _prompts_of(of_flat), strict=True)
        ]
        of_sum = of_hidden or of_residual
        of_activations = [any(needed) for _, *needed in of_prompts]
        of_scales = [of_scale for of_scale, *_ in of_prompts]
        computed = iter(
            add_rms_norm_backward_op(
                list(grads), total, None, weight, pre_activations, list(flat[::_OF_A_PROMPT]), prompted,
                [of_sum, False, of_weight, *of_activations, *of_scales, False], *ctx.options,
            )
        )  # fmt: skip
        grad = next(computed) if of_sum else None
        grad_weight = next(computed) if of_weight else None
        grad_activations = [next(computed) if need else None for need in of_activations]
        grad_scales = [next(computed) if need else None for need in of_scales]
        grad_hidden = grad.to(ctx.hidden_dtype) if grad is not None and of_hidden else None
        results: list[Tensor | None] = []
        for i, (_, source, first, _, last, _) in enumerate(_prompts_of(flat)):
            _, of_source, of_first, of_first_bias, of_last, of_bias = of_prompts[i]
            of_maps: list[Tensor | None] = [None] * 4
            found = grad_activations[i]
            if found is not None and last is not None:
                of_input = of_source if first is None else of_source or of_first or of_first_bias
                found, *of_maps[2:] = linear_gradients(found, inputs[i], last, (of_input, of_last, of_bias))
            if found is not None and first is not None:
                found, *of_maps[:2] = linear_gradients(found, sources[i], first, (of_source, of_first, of_first_bias))
            if source is None and found is not None and grad_hidden is not None:
                grad_hidden, found = found + grad_hidden, None  # not in place: the residual may have the same gradient
            results += [grad_scales[i], found, *of_maps]
        return None, grad_hidden, grad if of_residual else None, grad_weight, None, *results


def _prompts_of(flat: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """What there is of every prompt: scale, source, weight and bias of the first map, weight and bias of the last."""
    return (flat[i : i + _OF_A_PROMPT] for i in range(0, len(flat), _OF_A_PROMPT))


def _autocast_of(device: str) -> tuple[str, bool, torch.dtype | None]:
    """Autocast as it is now: the backward pass runs without."""
    enabled = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return device, enabled, torch.get_autocast_dtype(device) if enabled else None


def _autocast(device: str, enabled: bool, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    return torch.autocast(device, dtype) if enabled else nullcontext()
