"""A linear map, on the library that is the fastest for it.

PyTorch gives float32 products on a CPU to MKL, which runs code for AVX2 on processors of AMD. oneDNN, which PyTorch has on
board too, uses AVX-512 there: 250 GFLOP/s and not 110 on a core of Zen 5, for all shapes of a Vim. Told to do with AVX2 it
still gives 125.

Products in bfloat16 take a third of the time of float32 where the processor has instructions for them, and nearly three
times as long where oneDNN has to do without. There the operands are upcast, some rows at a time, and the float32 product is
rounded: weights and activations are stored as they were, and the time is that of float32.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import flop_registry, register_flop_formula

from svp.ops.backend import takes_numba

_FEWEST_PRODUCTS = 1_000_000  # with fewer the call of oneDNN costs more than it saves
_FEWEST_UPCAST = 500_000  # with fewer the casts may cost more, with AVX-512; with AVX2 they pay from 150,000 on
_TILE = 2048  # rows that are upcast at a time


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias, as ``torch.nn.functional.linear``.

    Args:
        x: Input, (..., inputs).
        weight: (outputs, inputs)
        bias: (outputs,), or None.
    """
    if torch.compiler.is_compiling():
        return F.linear(x, weight, bias)
    onednn = _is_for_onednn(x, weight)
    if not (onednn or _is_for_upcast(x, weight, torch.is_autocast_enabled("cpu"))) or not takes_numba():
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled():
        y: Tensor = (_Linear if onednn else _UpcastLinear).apply(x, weight, bias)
        return y
    return _by_onednn(x, weight, bias) if onednn else _upcast_linear(x, weight, torch.bfloat16, bias)


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    groups: int = 1,
) -> Tensor:
    """A convolution of images, as ``torch.nn.functional.conv2d``.

    oneDNN has none in bfloat16 without AVX-512, and PyTorch's own takes twenty times as long as that in float32.

    Args:
        x: Images, (batch, channels, height, width).
        weight: Filters, (outputs, channels / groups, rows, columns).
        bias: (outputs,), or None.
        stride: Rows and columns from one position of a filter to the next.
        padding: Rows and columns of zeros on every side.
        groups: Number of equal parts of the channels and of the outputs; each part of the outputs sees its own channels.

    Returns:
        (batch, outputs, rows, columns) in the dtype that PyTorch's has, rounded once.

    Raises:
        RuntimeError: Shapes or dtypes that PyTorch does not take.
    """
    if torch.compiler.is_compiling() or not _is_bf16_without_products(x, weight, torch.is_autocast_enabled("cpu")):
        return F.conv2d(x, weight, bias, stride, padding, groups=groups)
    with outside_autocast():
        bias = None if bias is None else bias.float()
        return F.conv2d(x.float(), weight.float(), bias, stride, padding, groups=groups).to(torch.bfloat16)


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b without a gradient; b is (inputs, outputs)."""
    if _is_for_onednn(a, b):
        return _by_onednn(a, b.T)
    return _upcast_linear(a, b.T, a.dtype) if _is_for_upcast(a, b) else a @ b


def linear_gradients(grad: Tensor, x: Tensor, weight: Tensor, needed: Sequence[bool]) -> tuple[Tensor | None, ...]:
    """Gradients of `x`, `weight` and the bias of ``linear``, those that `needed` marks; outside of autocast.

    Operands are cast to the dtype of `grad`, as autocast did in the forward pass, and gradients to that of their tensor.
    """
    of_x, of_weight, of_bias = needed
    if grad.dtype == torch.bfloat16 and _is_large(grad, weight, _FEWEST_UPCAST) and _lacks_bf16_products(grad, weight):
        return _upcast_gradients(grad, x, weight, needed, x.dtype)
    rows = grad.reshape(-1, grad.shape[-1])
    return (
        product(grad, weight.to(grad.dtype)).to(x.dtype) if of_x else None,
        product(rows.T, x.reshape(-1, x.shape[-1]).to(grad.dtype)).to(weight.dtype) if of_weight else None,
        rows.sum(0) if of_bias else None,
    )


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x if weight.requires_grad else None, weight)
        return _by_onednn(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _recorded_gradients(grad, x, weight, grad.dtype, ctx.needs_input_grad)
        # a frozen weight keeps no x, of which the dtype alone is asked
        return linear_gradients(grad, grad if x is None else x, weight, ctx.needs_input_grad)


class _UpcastLinear(torch.autograd.Function):
    """The same in bfloat16 by float32 products; under autocast of any operands, which then are not rounded."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x if weight.requires_grad else None, weight)
        ctx.x_dtype = x.dtype
        return _upcast_linear(x, weight, torch.bfloat16, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _recorded_gradients(grad, x, weight, ctx.x_dtype, ctx.needs_input_grad)
        return _upcast_gradients(grad, x, weight, ctx.needs_input_grad, ctx.x_dtype)


def _recorded_gradients(
    grad: Tensor, x: Tensor | None, weight: Tensor, x_dtype: torch.dtype, needed: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """The gradients in steps that autograd records, for second derivatives."""
    of_x, of_weight, of_bias = needed
    grad = grad.float()
    rows = grad.reshape(-1, grad.shape[-1])
    return (
        (grad @ weight.float()).to(x_dtype) if of_x else None,
        (rows.T @ x.reshape(-1, x.shape[-1]).float()).to(weight.dtype) if x is not None and of_weight else None,
        rows.sum(0) if of_bias else None,
    )


def _upcast_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, needed: Sequence[bool], x_dtype: torch.dtype
) -> tuple[Tensor | None, ...]:
    of_x, of_weight, of_bias = needed
    rows = grad.reshape(-1, grad.shape[-1])
    if len(rows) <= _TILE:
        rows = rows.float()  # once for all three
    return (
        _upcast_linear(rows, weight.T, x_dtype).view(*grad.shape[:-1], weight.shape[1]) if of_x else None,
        _upcast_linear(rows.T, x.reshape(-1, x.shape[-1]).T, weight.dtype) if of_weight else None,
        rows.sum(0, dtype=torch.float32) if of_bias else None,
    )


def _upcast_linear(x: Tensor, weight: Tensor, dtype: torch.dtype, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias in float32, rounded to `dtype`; of what is long no more than a tile is float32 at a time."""
    bias = None if bias is None else bias.float()
    inputs = x.shape[-1]
    with outside_autocast():
        if inputs > _TILE:  # the gradient of a weight: rows of a batch are summed over
            tiles = zip(torch.split(x.reshape(-1, inputs), _TILE, 1), torch.split(weight, _TILE, 1), strict=True)
            start = torch.zeros(()) if bias is None else bias
            total = sum((_fp32_linear(left.float(), right.float()) for left, right in tiles), start)
            return total.to(dtype).view(*x.shape[:-1], len(weight))
        weight = weight.float()
        if x.numel() <= _TILE * inputs:
            return _fp32_linear(x.float(), weight, bias).to(dtype)
        y = torch.empty(*x.shape[:-1], len(weight), dtype=dtype)
        tiles = zip(torch.split(y.view(-1, len(weight)), _TILE), torch.split(x.reshape(-1, inputs), _TILE), strict=True)
        for tile, part in tiles:
            tile.copy_(_fp32_linear(part.float(), weight, bias))
    return y


def _fp32_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return _by_onednn(x, weight, bias) if _mkl_has_slow_code() else F.linear(x, weight, bias)


def outside_autocast() -> AbstractContextManager[object]:
    """Autocast is off inside, on a CPU; nothing where it is off already, since turning it off takes some microseconds."""
    return torch.autocast("cpu", enabled=False) if torch.is_autocast_enabled("cpu") else nullcontext()


def _is_for_upcast(x: Tensor, weight: Tensor, autocast: bool = False) -> bool:
    """Whether this is a large product in bfloat16 on a processor that has no instructions for it."""
    return _is_large(x, weight, _FEWEST_UPCAST) and _is_bf16_without_products(x, weight, autocast)


def _is_bf16_without_products(x: Tensor, weight: Tensor, autocast: bool) -> bool:
    if autocast:
        floats = (torch.float32, torch.bfloat16)
        fits = torch.get_autocast_dtype("cpu") == torch.bfloat16 and x.dtype in floats and weight.dtype in floats
    else:
        fits = x.dtype == weight.dtype == torch.bfloat16
    return fits and _lacks_bf16_products(x, weight)


def _lacks_bf16_products(x: Tensor, weight: Tensor) -> bool:
    return x.is_cpu and weight.is_cpu and not has_bf16_products() and not torch._C._get_tracing_state()


def _is_large(x: Tensor, weight: Tensor, fewest: int) -> bool:
    return x.numel() * weight.numel() > fewest * x.shape[-1]  # never if x has no inputs, which oneDNN refuses


@cache
def has_bf16_products() -> bool:
    """Whether this processor multiplies matrices of bfloat16 by itself, and oneDNN is not told to do without.

    ``ONEDNN_MAX_CPU_ISA`` may tell it so; its names that hold none of the parts below are of older instructions.
    """
    limit = (os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "ALL").upper()
    if not any(part in limit for part in ("ALL", "DEFAULT", "BF16", "FP16", "AMX", "AVX10")):
        return False
    try:
        from llvmlite.binding import get_host_cpu_features
    except Exception:  # a broken installation raises anything
        return False
    features = get_host_cpu_features()
    return any(features.get(name, False) for name in ("avx512bf16", "amx-bf16", "bf16"))


def _is_for_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        x.dtype == weight.dtype == torch.float32
        and x.is_cpu
        and _mkl_has_slow_code()
        and _is_large(x, weight, _FEWEST_PRODUCTS)
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._get_tracing_state()
    )


@cache
def _mkl_has_slow_code() -> bool:
    """Whether this is a processor of AMD with AVX2 or more, and PyTorch has both libraries."""
    backends = cast(Any, torch.backends)  # not annotated
    if not (backends.mkl.is_available() and backends.mkldnn.is_available()):
        return False
    if backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512") or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    try:
        from llvmlite.binding import get_host_cpu_name
    except Exception:  # a broken installation raises anything
        return False
    return bool(get_host_cpu_name().startswith("znver"))


def _by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")
    return y


def _count(x: Any, weight: Any, *arguments: Any, **outputs: Any) -> int:
    *rows, inputs = x
    return 2 * torch.Size(rows).numel() * inputs * weight[0]


if hasattr(torch.ops.mkldnn, "_linear_pointwise") and torch.ops.mkldnn._linear_pointwise not in flop_registry:
    register_flop_formula(torch.ops.mkldnn._linear_pointwise)(_count)
