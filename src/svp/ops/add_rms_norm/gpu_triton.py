"""Prompts, residual and RMSNorm on a GPU by Triton, arithmetic in float32. See ``cpu_numba`` for the gradients.

A program owns one token in the forward pass, and every so many tokens in the backward pass, whose sums over tokens it keeps in
registers; PyTorch adds up those of all programs, so that they are the same in every run.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from svp.ops.add_rms_norm.reference import Inputs
from svp.ops.triton_math import launch, load_row, rows, sigmoid, silu_slope, store_row

_PROGRAMS = 512  # of the backward pass, at most


@triton.jit
def _vector(data, columns, mask):
    return tl.load(data + columns, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _prompt(pre_activation, scale, image, token, is_prompted, columns, mask):
    a = load_row(pre_activation, image, token, columns, mask)
    return tl.where(is_prompted, _vector(scale, columns, mask) * (a * sigmoid(a)), 0.0)


@triton.jit
def _forward_kernel(
    hidden, residual, first, first_scale, second, second_scale, prompted, weight, total, normed,
    length, d_model, eps, COLUMNS: tl.constexpr,
):  # fmt: skip
    item = tl.program_id(0).to(tl.int64)
    image, token = item // length, item % length
    columns = tl.arange(0, COLUMNS)
    mask = columns < d_model
    value = load_row(hidden, image, token, columns, mask)
    if first is not None:
        is_prompted = tl.load(prompted + token) != 0
        value += _prompt(first, first_scale, image, token, is_prompted, columns, mask)
        if second is not None:
            value += _prompt(second, second_scale, image, token, is_prompted, columns, mask)
    if residual is not None:
        value += load_row(residual, image, token, columns, mask)
    store_row(total, image, token, columns, value, mask)
    inverse = 1 / tl.sqrt(tl.sum(value * value, axis=0) / d_model + eps)
    store_row(normed, image, token, columns, value * inverse * _vector(weight, columns, mask), mask)


@triton.jit
def _store_grad_pre_activation(grad, value, pre_activation, scale, image, token, is_prompted, columns, mask):
    slope = silu_slope(load_row(pre_activation, image, token, columns, mask))
    value = tl.where(is_prompted, value * _vector(scale, columns, mask) * slope, 0.0)
    store_row(grad, image, token, columns, value, mask)


@triton.jit
def _of_scale(grad, pre_activation, image, token, is_prompted, columns, mask):
    a = load_row(pre_activation, image, token, columns, mask)
    return tl.where(is_prompted, grad * (a * sigmoid(a)), 0.0)


@triton.jit
def _backward_kernel(
    grad_total, grad_normed, total, first, first_scale, second, second_scale, prompted, weight,
    grad, grad_weight, grad_first, grad_second, grad_first_scale, grad_second_scale,
    tokens, length, d_model, eps, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Gradients that are not None; sums over tokens per program, (programs, d_model)."""
    program = tl.program_id(0)
    columns = tl.arange(0, COLUMNS)
    mask = columns < d_model
    weights = _vector(weight, columns, mask)
    of_weight = tl.zeros([COLUMNS], tl.float32)
    of_first = tl.zeros([COLUMNS], tl.float32)
    of_second = tl.zeros([COLUMNS], tl.float32)
    for item in range(program, tokens, tl.num_programs(0)):
        image, token = (item // length).to(tl.int64), (item % length).to(tl.int64)
        r = load_row(total, image, token, columns, mask)
        gn = load_row(grad_normed, image, token, columns, mask)
        inverse = 1 / tl.sqrt(tl.sum(r * r, axis=0) / d_model + eps)
        shared = tl.sum(gn * weights * r, axis=0) * inverse * inverse * inverse / d_model
        g = load_row(grad_total, image, token, columns, mask) + gn * weights * inverse - shared * r
        if grad is not None:
            store_row(grad, image, token, columns, g, mask)
        if grad_weight is not None:
            of_weight += gn * r * inverse
        if first is not None:
            is_prompted = tl.load(prompted + token) != 0
            if grad_first is not None:
                _store_grad_pre_activation(grad_first, g, first, first_scale, image, token, is_prompted, columns, mask)
            if grad_first_scale is not None:
                of_first += _of_scale(g, first, image, token, is_prompted, columns, mask)
            if second is not None:
                if grad_second is not None:
                    _store_grad_pre_activation(grad_second, g, second, second_scale, image, token, is_prompted, columns, mask)
                if grad_second_scale is not None:
                    of_second += _of_scale(g, second, image, token, is_prompted, columns, mask)
    at = program.to(tl.int64) * d_model + columns
    if grad_weight is not None:
        tl.store(grad_weight + at, of_weight, mask=mask)
    if grad_first_scale is not None:
        tl.store(grad_first_scale + at, of_first, mask=mask)
    if grad_second_scale is not None:
        tl.store(grad_second_scale + at, of_second, mask=mask)


# from tensors to kernels ------------------------------------------------------------------------------------------------


def forward(inputs: Inputs, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """r and n of ``svp.ops.add_rms_norm``."""
    hidden, residual, weight, pre_activations, scales, prompted = inputs
    batch, length, d_model = hidden.shape
    total = torch.empty(hidden.shape, dtype=torch.float32, device=hidden.device)
    normed = torch.empty(hidden.shape, dtype=dtype, device=hidden.device)
    launch(
        _forward_kernel,
        batch * length,
        hidden,
        rows(hidden),
        rows(residual),
        *_prompts(pre_activations, scales),
        _mask(prompted),
        weight.detach().contiguous(),
        rows(total),
        rows(normed),
        length,
        d_model,
        eps,
        **_sizes(d_model),
    )
    return total, normed


def backward(grads: list[Tensor], inputs: Inputs, needed: list[bool], eps: float, dtype: torch.dtype) -> list[Tensor]:
    """Gradients of those that `needed` marks: the sum, weight, pre_activations, scales."""
    grad_total, grad_normed = grads
    total, _, weight, pre_activations, scales, prompted = inputs
    needed = [needed[0], *needed[2:-1]]
    batch, length, d_model = total.shape
    programs, count = min(batch * length, _PROGRAMS), len(pre_activations)

    def new(t: Tensor, need: bool) -> Tensor | None:
        return torch.empty(t.shape, dtype=t.dtype, device=t.device) if need else None

    def new_sums(need: bool) -> Tensor | None:
        return torch.empty(programs, d_model, device=total.device) if need else None

    missing = [None] * (2 - count)
    grad, of_weight = new(total, needed[0]), new_sums(needed[1])
    of_activations = [new(a, need) for a, need in zip(pre_activations, needed[2:], strict=False)]
    of_scales = [new_sums(need) for need in needed[2 + count :]]
    launch(
        _backward_kernel,
        programs,
        total,
        rows(grad_total),
        rows(grad_normed),
        rows(total),
        *_prompts(pre_activations, scales),
        _mask(prompted),
        weight.detach().contiguous(),
        rows(grad),
        of_weight,
        *(rows(t) for t in (*of_activations, *missing)),
        *of_scales,
        *missing,
        batch * length,
        length,
        d_model,
        eps,
        **_sizes(d_model),
    )
    summed = zip([of_weight, *of_scales], [weight, *scales], strict=True)
    of_weight, *of_scales = (None if sums is None else sums.sum(0).to(t.dtype) for sums, t in summed)
    return [t for t in (grad, of_weight, *of_activations, *of_scales) if t is not None]


def _prompts(pre_activations: list[Tensor], scales: list[Tensor]) -> list[Any]:
    """The kernels' arguments for two prompts, None for those that are missing."""
    parts: list[Any] = []
    for pre_activation, scale in zip(pre_activations, scales, strict=True):
        parts += rows(pre_activation), scale.detach().contiguous()
    return parts + [None] * (4 - len(parts))


def _mask(prompted: Tensor | None) -> Tensor | None:
    return None if prompted is None else prompted.contiguous().to(torch.int8)


def _sizes(d_model: int) -> dict[str, int]:
    columns = triton.next_power_of_2(d_model)
    return dict(COLUMNS=columns, num_warps=min(8, max(1, columns // 256)))
