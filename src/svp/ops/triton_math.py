"""What the Triton kernels share: rows of a tensor, and functions of float32 that keep NaN and inf."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, NamedTuple, overload

import torch
import triton
import triton.language as tl
from torch import Tensor

if tuple(int(part) for part in triton.__version__.split(".")[:2]) < (3, 3):
    raise ImportError(f"needs Triton 3.3 or newer, as PyTorch 2.7 brings it, found {triton.__version__}")

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


class Rows(NamedTuple):
    """A tensor (batch, length, channels) whose channels are adjacent, the strides of images and of tokens.

    The latter is a constant of the kernel, by which neighbouring rows are addressed without arithmetic: it is a width of the
    model and takes few values.
    """

    data: Tensor
    image: int
    token: Any


@overload
def rows(t: None) -> None: ...
@overload
def rows(t: Tensor) -> Rows: ...
def rows(t: Tensor | None) -> Rows | None:
    """`t` (batch, length, channels) for a kernel; copied only if its channels are distant."""
    if t is None:
        return None
    t = t.detach()
    t = t if t.stride(2) == 1 else t.contiguous()
    return Rows(t, t.stride(0), tl.constexpr(t.stride(1)))


def launch(kernel: Any, programs: int, like: Tensor, *arguments: Any, **constants: Any) -> None:
    """Run `programs` copies of a kernel on the device of `like`, which need not be the current one."""
    if programs:
        with torch.cuda.device(like.device) if like.is_cuda else nullcontext():
            kernel[(programs,)](*arguments, **constants, enable_fp_fusion=True)


@triton.jit
def load_row(rows, image, token, columns, mask):
    """Some columns of one token, in float32; `image` and `token` are int64. Zero where masked."""
    return tl.load(rows.data + image * rows.image + token * rows.token + columns, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def store_row(rows, image, token, columns, value, mask):
    tl.store(rows.data + image * rows.image + token * rows.token + columns, value, mask=mask)


@triton.jit
def sigmoid(x):
    return 1 / (1 + tl.exp2(-x * LOG2_E))


@triton.jit
def silu_slope(x):
    """Derivative of x * sigmoid(x)."""
    s = sigmoid(x)
    return s * (1 + x * (1 - s))


@triton.jit
def softplus(x):
    """log(1 + exp(x)) = max(x, 0) + log1p(u), u = exp(-|x|).

    log1p(u) = 2 atanh(v), v = u / (2 + u) <= 1/3, by its series: the logarithm of the hardware is exact to 2e-7 of one, too
    coarse for steps of 1e-3.
    """
    u = tl.exp2(-tl.abs(x) * LOG2_E)
    v = u / (2 + u)
    w = v * v
    p = 1 / 11 + w * (1 / 13)
    p = 1 / 9 + w * p
    p = 1 / 7 + w * p
    p = 1 / 5 + w * p
    p = 1 / 3 + w * p
    return tl.maximum(x, 0.0) + 2 * v * (1 + w * p)


@triton.jit
def load_tile(rows, image, tokens, channels, length, d_inner):
    """(tokens, channels) in float32; zero outside the sequence."""
    mask = ((tokens >= 0) & (tokens < length))[:, None] & (channels < d_inner)[None, :]
    at = tokens.to(tl.int64)[:, None] * rows.token + channels[None, :]
    return tl.load(rows.data + image * rows.image + at, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def store_tile(rows, image, tokens, channels, length, d_inner, value):
    mask = (tokens < length)[:, None] & (channels < d_inner)[None, :]
    at = tokens.to(tl.int64)[:, None] * rows.token + channels[None, :]
    tl.store(rows.data + image * rows.image + at, value, mask=mask)


INTERPRETED = not isinstance(load_row, triton.JITFunction)
"""Whether the kernels are run by Triton's interpreter: TRITON_INTERPRET=1 was set when they were imported."""
