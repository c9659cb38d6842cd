"""A linear map, on the library that is the fastest for it.

PyTorch gives float32 products on a CPU to MKL, which runs code for AVX2 on processors of AMD. oneDNN, which PyTorch has on
board too, uses AVX-512 there: 250 GFLOP/s and not 110 on a core of Zen 5, for all shapes of a Vim.
"""

from __future__ import annotations

from functools import cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import flop_registry, register_flop_formula

from svp.ops.backend import resolve

_FEWEST_PRODUCTS = 1_000_000  # with fewer the call of oneDNN costs more than it saves


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias, as ``torch.nn.functional.linear``.

    Args:
        x: Input, (..., inputs).
        weight: (outputs, inputs)
        bias: (outputs,), or None.
    """
    if torch.compiler.is_compiling() or not _is_for_onednn(x, weight) or resolve("auto", x, weight, bias) != "numba":
        return F.linear(x, weight, bias)
    y: Tensor = _Linear.apply(x, weight, bias)
    return y


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b without a gradient; b is (inputs, outputs)."""
    return _by_onednn(a, b.T) if _is_for_onednn(a, b) else a @ b


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x if weight.requires_grad else None, weight)
        return _by_onednn(x, weight, bias)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator, unused-ignore]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        rows = grad.reshape(-1, grad.shape[-1])
        return (
            product(grad, weight) if of_x else None,
            product(rows.T, x.reshape(-1, x.shape[-1])) if of_weight else None,
            rows.sum(0) if of_bias else None,
        )


def _is_for_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        x.dtype == weight.dtype == torch.float32
        and x.device.type == "cpu"
        and x.numel() * weight.numel() >= _FEWEST_PRODUCTS * x.shape[-1]
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._get_tracing_state()
        and _mkl_has_slow_code()
    )


@cache
def _mkl_has_slow_code() -> bool:
    """Whether this is a processor of AMD with AVX-512, and PyTorch has both libraries."""
    backends = cast(Any, torch.backends)  # not annotated
    if not (backends.mkl.is_available() and backends.mkldnn.is_available()):
        return False
    if backends.cpu.get_cpu_capability() != "AVX512" or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    try:
        from llvmlite.binding import get_host_cpu_name
    except Exception:  # a broken installation raises anything
        return False
    return bool(get_host_cpu_name().startswith("znver"))


def _by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


def _count(x: Any, weight: Any, *arguments: Any, **outputs: Any) -> int:
    *rows, inputs = x
    return 2 * torch.Size(rows).numel() * inputs * weight[0]


if hasattr(torch.ops.mkldnn, "_linear_pointwise") and torch.ops.mkldnn._linear_pointwise not in flop_registry:
    register_flop_formula(torch.ops.mkldnn._linear_pointwise)(_count)
