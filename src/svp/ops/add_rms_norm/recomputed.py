"""The kernels with prompts whose pre-activations are computed again in the backward pass instead of being kept for it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from svp.ops.add_rms_norm.library import add_rms_norm_backward_op, add_rms_norm_op
from svp.ops.add_rms_norm.reference import LinearPrompt, Prompt
from svp.ops.linear import linear


def add_rms_norm_recomputed(
    hidden: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    terms: Sequence[Prompt | LinearPrompt],
    scales: Sequence[Tensor],
    prompted: Tensor | None,
    *options: Any,
) -> tuple[Tensor, Tensor]:
    """``add_rms_norm_op``; kept are r and, of a prompt that is a linear map, what the map is applied to."""
    maps = [
        (term.source, term.weight, term.bias) if isinstance(term, LinearPrompt) else (term[0], None, None) for term in terms
    ]
    total, normed = _Recomputed.apply(options, hidden, residual, weight, prompted, *scales, *(t for m in maps for t in m))
    return total, normed


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, options: Any, hidden: Tensor, residual: Tensor | None, weight: Tensor, prompted: Tensor | None, *rest: Any
    ) -> tuple[Tensor, Tensor]:
        scales, maps = _unpack(rest)
        pre_activations = [_apply(*values) for values in maps]
        total, normed = add_rms_norm_op(hidden, residual, weight, pre_activations, scales, prompted, *options)
        ctx.options, ctx.autocast = options, _autocast_of(hidden.device.type)
        ctx.save_for_backward(total, weight, prompted, *rest)
        return total, normed

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator, unused-ignore]
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        total, weight, prompted, *rest = ctx.saved_tensors
        _, of_hidden, of_residual, of_weight, _, *of_rest = ctx.needs_input_grad
        scales, maps = _unpack(rest)
        of_scales, of_maps = _unpack(of_rest)
        leaves: list[list[Any]] = [
            [t if t is None else t.detach().requires_grad_(need) for t, need in zip(values, needs, strict=True)]
            for values, needs in zip(maps, of_maps, strict=True)
        ]
        with torch.enable_grad(), _autocast(*ctx.autocast):
            pre_activations = [_apply(*values) for values in leaves]
        of_sum = of_hidden or of_residual
        needed = [of_sum, False, of_weight, *(any(needs) for needs in of_maps), *of_scales, False]
        values = [a.detach() for a in pre_activations]
        computed = iter(
            add_rms_norm_backward_op(list(grads), total, None, weight, values, scales, prompted, needed, *ctx.options)
        )
        grad = next(computed) if of_sum else None
        grad_weight = next(computed) if of_weight else None
        grad_activations = [next(computed) if any(needs) else None for needs in of_maps]
        results: list[Tensor | None] = [next(computed) if need else None for need in of_scales]
        for a, of_a, given in zip(pre_activations, grad_activations, leaves, strict=True):
            wanted = [t for t in given if t is not None and t.requires_grad]
            found = iter(torch.autograd.grad(a, wanted, of_a) if wanted else ())
            results += [next(found) if t is not None and t.requires_grad else None for t in given]
        return None, grad if of_hidden else None, grad if of_residual else None, grad_weight, None, *results


def _unpack(rest: Sequence[Any]) -> tuple[list[Any], list[Sequence[Any]]]:
    """[scale of every prompt, then (source, weight, bias) of every prompt] -> both apart"""
    count = len(rest) // 4
    return list(rest[:count]), [rest[i : i + 3] for i in range(count, 4 * count, 3)]


def _apply(source: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    return source if weight is None else linear(source, weight, bias)


def _autocast_of(device: str) -> tuple[str, bool, torch.dtype | None]:
    """Autocast as it is now: the backward pass runs without."""
    enabled = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return device, enabled, torch.get_autocast_dtype(device) if enabled else None


def _autocast(device: str, enabled: bool, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    return torch.autocast(device, dtype) if enabled else nullcontext()
