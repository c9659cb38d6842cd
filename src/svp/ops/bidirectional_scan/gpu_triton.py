"""The inner part of a Vim mixer on a GPU by Triton. What moves between kernels is stored in the dtype of the input.

Both convolutions are one pass over the input, the projections are PyTorch's matrix products, and each direction is one scan:
the second one adds its output to that of the first, gates the sum and halves it. Nothing but the input is kept for the
backward pass, which computes convolutions, projections and states again; see ``cpu_numba`` for the equations and
``selective_scan.gpu_triton`` for the scan.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import triton
import triton.language as tl
from torch import Tensor

from svp.ops.bidirectional_scan.reference import Inputs, project, with_bias
from svp.ops.causal_conv1d.gpu_triton import (
    CHANNELS,
    TOKENS,
    filtered,
    grad_input,
    new_grad_taps,
    parameters,
    store_grad_taps,
    tile,
    tiles,
)
from svp.ops.selective_scan.gpu_triton import Scan
from svp.ops.selective_scan.reference import Inputs as ScanInputs
from svp.ops.triton_math import launch, rows, sigmoid, store_tile


@triton.jit
def _conv_kernel(
    x, weight, bias, weight_b, bias_b, y, y_b, length, d_inner,
    D_CONV: tl.constexpr, D_CONV_B: tl.constexpr, TOKENS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """SiLU of the filters that look back and ahead."""
    _, image, tokens, channels = tile(length, d_inner, TOKENS, CHANNELS)
    value = filtered(x, weight, bias, image, tokens, channels, length, d_inner, 0, 1, D_CONV)
    store_tile(y, image, tokens, channels, length, d_inner, value * sigmoid(value))
    value = filtered(x, weight_b, bias_b, image, tokens, channels, length, d_inner, 0, -1, D_CONV_B)
    store_tile(y_b, image, tokens, channels, length, d_inner, value * sigmoid(value))


@triton.jit
def _conv_backward_kernel(
    grad_y, grad_y_b, x, weight, bias, weight_b, bias_b, grad_x, grad_taps, grad_taps_b, length, d_inner,
    D_CONV: tl.constexpr, D_CONV_B: tl.constexpr, TOKENS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Gradient of x from those of both convolved inputs; of the taps and biases, if not None."""
    item, image, tokens, channels = tile(length, d_inner, TOKENS, CHANNELS)
    value = grad_input(grad_y, x, weight, bias, image, tokens, channels, length, d_inner, 1, D_CONV, True)
    value += grad_input(grad_y_b, x, weight_b, bias_b, image, tokens, channels, length, d_inner, -1, D_CONV_B, True)
    store_tile(grad_x, image, tokens, channels, length, d_inner, value)
    if grad_taps is not None:
        store_grad_taps(grad_taps, grad_y, x, weight, bias, item, image, tokens, channels, length, d_inner, 1, D_CONV, True)
    if grad_taps_b is not None:
        store_grad_taps(
            grad_taps_b, grad_y_b, x, weight_b, bias_b, item, image, tokens, channels, length, d_inner, -1, D_CONV_B, True
        )


# from tensors to kernels ------------------------------------------------------------------------------------------------


def forward(inputs: Inputs) -> Tensor:
    """``svp.ops.bidirectional_scan``"""
    call = _Call(*inputs)
    ungated, out = torch.empty_like(call.convolved[0]), torch.empty_like(call.convolved[0])
    call.scan(0).run(ungated)
    call.scan(1, gated=True, other=ungated).run(out)
    return out


def backward(grads: list[Tensor], inputs: Inputs, needed: list[bool]) -> list[Tensor]:
    """Gradients of those of `xz` and the weights that `needed` marks."""
    xz, weights = inputs
    call = _Call(xz, weights)
    grad_xz = torch.empty_like(xz, memory_format=torch.contiguous_format)
    grad_x, grad_z = grad_xz.chunk(2, dim=-1)
    ungated = torch.empty_like(call.convolved[0])
    need, need_state = (needed[1:8], needed[8:15]), needed[15:] or [False, False]
    of_weights: list[list[Tensor | None]] = []  # by direction
    of_states: list[Tensor | None] = []
    grad_convolved: list[Tensor] = []
    for side in range(2):
        _, _, need_x_proj, need_dt_proj, need_dt_bias, need_A, need_D = need[side]
        x, p = call.convolved[side].flatten(0, 1), call.projected[side].flatten(0, 1)
        x_proj, dt_proj = call.projections[side]
        # the second scan has the sum of both outputs, and so the gradient of the gate
        scan = call.scan(side, gated=True, other=ungated if side else None)
        of_x, of_raw, of_A, of_B, of_C, of_D, _, of_dt_bias, of_state = scan.run_backward(
            grads[0],
            None,
            [True, True, need_A, True, True, need_D, side == 1, need_dt_bias, need_state[side]],
            ungated=None if side else ungated,
            grad_z=grad_z,
        )
        of_x, of_raw, of_B, of_C = cast(list[Tensor], [of_x, of_raw, of_B, of_C])
        of_raw = of_raw.flatten(0, 1)
        of_p = torch.cat([of_raw @ dt_proj, of_B.flatten(0, 1), of_C.flatten(0, 1)], dim=-1)
        of_x.flatten(0, 1).addmm_(of_p, x_proj[:, : x.shape[1]])
        grad_convolved.append(of_x)
        of_x_proj = with_bias(of_p.T @ x, of_p, x_proj) if need_x_proj else None
        of_dt_proj = of_raw.T @ p[:, : dt_proj.shape[1]] if need_dt_proj else None
        of_weights.append([None, None, of_x_proj, of_dt_proj, of_dt_bias, of_A, of_D])
        of_states.append(of_state)

    grad_taps = [new_grad_taps(call.x, weights[7 * side]) if any(need[side][:2]) else None for side in range(2)]
    call.launch(_conv_backward_kernel, *(rows(t) for t in grad_convolved), *call.inputs, rows(grad_x), *grad_taps)
    for side, partial in enumerate(grad_taps):
        if partial is not None:
            of_taps = partial.sum(0)  # (d_conv + 1, d_inner)
            of_weights[side][:2] = of_taps[:-1].T, of_taps[-1]
    of_all = [grad_xz, *of_weights[0], *of_weights[1], *(of_states if weights[14:] else [])]
    results = zip(of_all, [xz, *weights], needed, strict=True)
    return [_own(grad, t.dtype) for grad, t, need in results if need and grad is not None]


def _own(grad: Tensor, dtype: torch.dtype) -> Tensor:
    """`grad` in memory of its own: outputs must not share any."""
    grad = grad.to(dtype).contiguous()
    return grad if grad.untyped_storage().nbytes() == grad.nbytes else grad.clone()


class _Call:
    """What forward and backward share: the convolved inputs of both directions and their projections."""

    def __init__(self, xz: Tensor, weights: list[Tensor]) -> None:
        xz = xz.detach()
        self.x, self.z = xz.chunk(2, dim=-1)
        self.sides = weights[:7], weights[7:14]
        self.states: list[Any] = weights[14:] or [None, None]
        self.inputs = (rows(self.x), *parameters(*weights[0:2]), *parameters(*weights[7:9]))
        self.convolved = [xz.new_empty(self.x.shape) for _ in range(2)]
        self.launch(_conv_kernel, *self.inputs, *(rows(t) for t in self.convolved))
        # x_proj and dt_proj
        self.projections = [[weight.detach().to(xz.dtype) for weight in side[2:4]] for side in self.sides]
        self.projected = [project(x, x_proj) for x, (x_proj, _) in zip(self.convolved, self.projections, strict=True)]

    def scan(self, side: int, gated: bool = False, other: Tensor | None = None) -> Scan:
        """One direction; where gated, by SiLU(z) / 2, after adding `other`."""
        *_, dt_proj, dt_bias, A, D = self.sides[side]
        dt_rank, d_state = dt_proj.shape[1], A.shape[1]
        p_dt, B, C = self.projected[side].split([dt_rank, d_state, d_state], dim=-1)
        dt = p_dt @ self.projections[side][1].T
        z = self.z if gated else None
        given = ScanInputs(self.convolved[side], dt, A, B, C, D, z, dt_bias, self.states[side])
        return Scan(given, bool(side), other, scale=0.5)

    def launch(self, kernel: Any, *arguments: Any) -> None:
        _, length, d_inner = self.x.shape
        d_conv, d_conv_b = (side[0].shape[1] for side in self.sides)
        launch(
            kernel,
            tiles(self.x),
            self.x,
            *arguments,
            length,
            d_inner,
            D_CONV=d_conv,
            D_CONV_B=d_conv_b,
            TOKENS=TOKENS,
            CHANNELS=CHANNELS,
            num_warps=4,
        )
