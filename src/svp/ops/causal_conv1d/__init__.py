"""Depthwise causal convolution along the sequence."""

from __future__ import annotations

from torch import Tensor

from svp.errors import InputError
from svp.ops.backend import describe, resolve
from svp.ops.causal_conv1d.library import causal_conv1d_op
from svp.ops.causal_conv1d.reference import Inputs, causal_conv1d_reference

__all__ = ["causal_conv1d"]

describe(
    "causal_conv1d",
    reference="a sum of shifted products",
    any_device="the reference",
    numba="one kernel",
    triton="one kernel",
)


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = "silu",
    reverse: bool = False,
    backend: str = "auto",
) -> Tensor:
    """Convolve every channel with its own causal filter, then apply the activation.

        y[t] = activation(bias + sum_k weight[:, k] * x[t - (d_conv - 1) + k]),        x = 0 before the first token

    With ``reverse`` the filter looks at later tokens instead: x[t + (d_conv - 1) - k], zero behind the last token.

    Args:
        x: Input, (batch, length, d_inner).
        weight: One filter per channel, (d_inner, d_conv); the last tap meets the current token.
        bias: One value per channel, (d_inner,), or None.
        activation: "silu" or None.
        reverse: Look ahead instead of back.
        backend: One of ``svp.ops.BACKENDS``.

    Returns:
        y, shape and dtype of `x`.

    Raises:
        ValueError: A shape does not fit, an unknown activation or backend, a named backend does not take this device or
            dtype; names it and what was expected.
        RuntimeError: The named backend does not work here.

    Source: Gu and Dao, arXiv:2312.00752, Figure 3; taps ordered as in the released checkpoints.
    """
    if activation not in ("silu", None):
        raise InputError(f"causal_conv1d: activation is {activation!r}, expected 'silu' or None")
    if x.ndim != 3 or x.shape[1] < 1:
        raise InputError(f"causal_conv1d: x has shape {tuple(x.shape)}, expected (batch, length >= 1, d_inner)")
    d_inner = x.shape[2]
    if weight.ndim != 2 or weight.shape[0] != d_inner:
        raise InputError(f"causal_conv1d: weight has shape {tuple(weight.shape)}, expected ({d_inner}, d_conv)")
    if bias is not None and tuple(bias.shape) != (d_inner,):
        raise InputError(f"causal_conv1d: bias has shape {tuple(bias.shape)}, expected ({d_inner},)")
    chosen = resolve(backend, x, weight, bias)
    if chosen in ("reference", "any_device"):  # a few multiplications per value: nothing to save by hand
        return causal_conv1d_reference(Inputs(x, weight, bias), activation, reverse)
    y: Tensor = causal_conv1d_op(x, weight, bias, activation, reverse, chosen)
    return y
