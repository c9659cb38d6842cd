"""The depthwise causal convolution on a GPU by Triton: filter and SiLU in one pass, arithmetic in float32.

A program owns a tile, (tokens, channels), of one image. Neighbouring taps read the tile again, shifted, from the cache. The
backward computes the convolution again, see ``cpu_numba`` for the equations; gradients of taps and bias are kept per tile and
added up by PyTorch. `STEP` is 1 where the filter looks back and -1 where it looks ahead.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from svp.ops.causal_conv1d.reference import Inputs
from svp.ops.triton_math import launch, load_tile, rows, sigmoid, silu_slope, store_tile

TOKENS, CHANNELS = 16, 64  # of a tile: eight values per thread of four warps


@triton.jit
def tile(length, d_inner, TOKENS: tl.constexpr, CHANNELS: tl.constexpr):
    """This program's number and image (int64), tokens and channels; blocks of channels follow each other."""
    item, blocks, tiles = tl.program_id(0), tl.cdiv(d_inner, CHANNELS), tl.cdiv(length, TOKENS)
    tokens = item // blocks % tiles * TOKENS + tl.arange(0, TOKENS)
    return item.to(tl.int64), (item // blocks // tiles).to(tl.int64), tokens, item % blocks * CHANNELS + tl.arange(0, CHANNELS)


@triton.jit
def _tap(weight, k, channels, d_inner, D_CONV: tl.constexpr):
    return tl.load(weight + channels * D_CONV + k, mask=channels < d_inner, other=0.0).to(tl.float32)[None, :]


@triton.jit
def filtered(
    x, weight, bias, image, tokens, channels, length, d_inner, OFFSET: tl.constexpr, STEP: tl.constexpr, D_CONV: tl.constexpr
):
    """The filter `OFFSET` behind `tokens`, before the activation; equal offsets let the compiler load a tile once."""
    total = tl.zeros([tokens.shape[0], channels.shape[0]], tl.float32)
    if bias is not None:
        total += tl.load(bias + channels, mask=channels < d_inner, other=0.0).to(tl.float32)[None, :]
    for k in tl.static_range(D_CONV):
        # the zeros outside take part: a weight of inf times zero is NaN, as in the reference
        value = load_tile(x, image, tokens + (OFFSET - STEP * (D_CONV - 1 - k)), channels, length, d_inner)
        total += _tap(weight, k, channels, d_inner, D_CONV) * value
    return total


@triton.jit
def grad_filtered(
    grad_y, x, weight, bias, image, tokens, channels, length, d_inner,
    OFFSET: tl.constexpr, STEP: tl.constexpr, D_CONV: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    """Gradient of ``filtered`` from that of the output; zero outside the sequence."""
    grad = load_tile(grad_y, image, tokens + OFFSET, channels, length, d_inner)
    if SILU:
        grad *= silu_slope(filtered(x, weight, bias, image, tokens, channels, length, d_inner, OFFSET, STEP, D_CONV))
    return grad


@triton.jit
def grad_input(
    grad_y, x, weight, bias, image, tokens, channels, length, d_inner,
    STEP: tl.constexpr, D_CONV: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    """Gradient of x at `tokens`, which tap k has met STEP * (D_CONV - 1 - k) tokens later."""
    total = tl.zeros([tokens.shape[0], channels.shape[0]], tl.float32)
    for k in tl.static_range(D_CONV):
        of_sum = grad_filtered(
            grad_y, x, weight, bias, image, tokens, channels, length, d_inner,
            STEP * (D_CONV - 1 - k), STEP, D_CONV, SILU,
        )  # fmt: skip
        total += _tap(weight, k, channels, d_inner, D_CONV) * of_sum
    return total


@triton.jit
def store_grad_taps(
    grad_taps, grad_y, x, weight, bias, item, image, tokens, channels, length, d_inner,
    STEP: tl.constexpr, D_CONV: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    """Sums over the tile, one row per tap and one for the bias: (tiles, d_conv + 1, d_inner)."""
    of_sum = grad_filtered(grad_y, x, weight, bias, image, tokens, channels, length, d_inner, 0, STEP, D_CONV, SILU)
    at = item // tl.cdiv(d_inner, channels.shape[0]) * (D_CONV + 1)
    for k in tl.static_range(D_CONV):
        value = load_tile(x, image, tokens - STEP * (D_CONV - 1 - k), channels, length, d_inner)
        tl.store(grad_taps + (at + k) * d_inner + channels, tl.sum(of_sum * value, axis=0), mask=channels < d_inner)
    tl.store(grad_taps + (at + D_CONV) * d_inner + channels, tl.sum(of_sum, axis=0), mask=channels < d_inner)


@triton.jit
def _forward_kernel(
    x, weight, bias, y, length, d_inner,
    STEP: tl.constexpr, D_CONV: tl.constexpr, SILU: tl.constexpr, TOKENS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    _, image, tokens, channels = tile(length, d_inner, TOKENS, CHANNELS)
    value = filtered(x, weight, bias, image, tokens, channels, length, d_inner, 0, STEP, D_CONV)
    if SILU:
        value *= sigmoid(value)
    store_tile(y, image, tokens, channels, length, d_inner, value)


@triton.jit
def _backward_kernel(
    grad_y, x, weight, bias, grad_x, grad_taps, length, d_inner,
    STEP: tl.constexpr, D_CONV: tl.constexpr, SILU: tl.constexpr, TOKENS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    item, image, tokens, channels = tile(length, d_inner, TOKENS, CHANNELS)
    if grad_x is not None:
        value = grad_input(grad_y, x, weight, bias, image, tokens, channels, length, d_inner, STEP, D_CONV, SILU)
        store_tile(grad_x, image, tokens, channels, length, d_inner, value)
    if grad_taps is not None:
        store_grad_taps(grad_taps, grad_y, x, weight, bias, item, image, tokens, channels, length, d_inner, STEP, D_CONV, SILU)


# from tensors to kernels ------------------------------------------------------------------------------------------------


def forward(inputs: Inputs, activation: str | None, reverse: bool) -> Tensor:
    """y of ``svp.ops.causal_conv1d``."""
    x, weight, bias = inputs
    y = x.new_empty(x.shape)
    _launch(_forward_kernel, x, weight, activation, reverse, rows(x), *parameters(weight, bias), rows(y))
    return y


def backward(grads: list[Tensor], inputs: Inputs, needed: list[bool], activation: str | None, reverse: bool) -> list[Tensor]:
    """Gradients of those of x, weight and bias that `needed` marks."""
    x, weight, bias = inputs
    grad_x = x.new_empty(x.shape) if needed[0] else None
    grad_taps = new_grad_taps(x, weight) if needed[1] or needed[2] else None
    read = (rows(grads[0]), rows(x), *parameters(weight, bias))
    _launch(_backward_kernel, x, weight, activation, reverse, *read, rows(grad_x), grad_taps)
    results = [] if grad_x is None else [grad_x]
    if grad_taps is not None:
        of_taps = grad_taps.sum(0)  # (d_conv + 1, d_inner)
        if needed[1]:
            results.append(of_taps[:-1].T.to(weight.dtype).contiguous())
        if needed[2] and bias is not None:
            results.append(of_taps[-1].to(bias.dtype, copy=True))  # outputs must not share memory
    return results


def parameters(weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Taps and bias as the kernels read them."""
    return weight.detach().contiguous(), None if bias is None else bias.detach().contiguous()


def new_grad_taps(x: Tensor, weight: Tensor) -> Tensor:
    """Room for the sums of every tile."""
    batch, length, d_inner = x.shape
    return x.new_empty(batch * triton.cdiv(length, TOKENS), weight.shape[1] + 1, d_inner, dtype=torch.float32)


def tiles(x: Tensor) -> int:
    """Programs that one pass over `x` takes."""
    batch, length, d_inner = x.shape
    return batch * triton.cdiv(length, TOKENS) * triton.cdiv(d_inner, CHANNELS)


def _launch(kernel: Any, x: Tensor, weight: Tensor, activation: str | None, reverse: bool, *arguments: Any) -> None:
    launch(
        kernel,
        tiles(x),
        x,
        *arguments,
        *x.shape[1:],
        STEP=-1 if reverse else 1,
        D_CONV=weight.shape[1],
        SILU=activation == "silu",
        TOKENS=TOKENS,
        CHANNELS=CHANNELS,
        num_warps=4,
    )
