"""The selective state-space recurrence of Mamba."""

from __future__ import annotations

from typing import Literal, overload

from torch import Tensor

from svp.errors import InputError
from svp.ops.backend import describe, resolve
from svp.ops.selective_scan.library import selective_scan_op
from svp.ops.selective_scan.reference import Inputs, selective_scan_reference

__all__ = ["selective_scan"]

describe(
    "selective_scan",
    reference="a loop over the tokens",
    any_device="the reference, with a backward by hand",
    numba="one kernel",
    triton="one kernel, two backward",
)


@overload
def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = ...,
    z: Tensor | None = ...,
    dt_bias: Tensor | None = ...,
    initial_state: Tensor | None = ...,
    reverse: bool = ...,
    return_last_state: Literal[False] = ...,
    backend: str = ...,
) -> Tensor: ...
@overload
def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = ...,
    z: Tensor | None = ...,
    dt_bias: Tensor | None = ...,
    initial_state: Tensor | None = ...,
    reverse: bool = ...,
    *,
    return_last_state: Literal[True],
    backend: str = ...,
) -> tuple[Tensor, Tensor]: ...
def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_state: Tensor | None = None,
    reverse: bool = False,
    return_last_state: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Run the selective state-space recurrence along the sequence.

        step[t] = softplus(dt[t] + dt_bias)
        h[t]    = exp(step[t] * A) * h[t-1] + step[t] * B[t] * x[t],        h = initial_state before the first token
        y[t]    = (C[t] . h[t] + D * x[t]) * SiLU(z[t])

    With ``reverse`` the recurrence runs from the last token to the first; tokens keep their places in every argument and
    in `y`, so nothing is flipped.

    A long sequence can be scanned in chunks, each from the last state of the one before. Outputs and gradients are those of
    the whole; with ``reverse`` the last chunk comes first:

        state, ys = None, []
        for x_, dt_, B_, C_ in zip(*(t.split(1024, dim=1) for t in (x, dt, B, C))):
            y, state = selective_scan(x_, dt_, A, B_, C_, initial_state=state, return_last_state=True)
            ys.append(y)
        y = torch.cat(ys, dim=1)

    Args:
        x: Input, (batch, length, d_inner).
        dt: Step size before bias and softplus, (batch, length, d_inner).
        A: Decay, (d_inner, d_state); negative, or the scan grows without bound.
        B: Input projection per token, (batch, length, d_state).
        C: Output projection per token, (batch, length, d_state).
        D: Skip weight, (d_inner,); no skip if None.
        z: Gate, (batch, length, d_inner); no gate if None.
        dt_bias: Added to `dt` before the softplus, (d_inner,).
        initial_state: h before the first token that the recurrence meets, (batch or 1, d_inner, d_state); one serves all
            images, its gradient is their sum. Zero if None, at no cost.
        reverse: Run from the last token to the first.
        return_last_state: Also return h after the last step, (batch, d_inner, d_state): at token length-1, or at token 0
            with ``reverse``.
        backend: One of ``svp.ops.BACKENDS``.

    Returns:
        y, (batch, length, d_inner) in the dtype of `x`; or (y, last state). The state is kept in float32 or wider. Where an
        input is not finite, "numba" may give NaN for an infinity of the others if d_state is not a multiple of four.

    Raises:
        ValueError: A shape does not fit (names the argument, its shape and the one expected), an unknown backend, or a
            named backend does not take this device or dtype.
        RuntimeError: The named backend does not work here.

    Source: Gu and Dao, arXiv:2312.00752, Algorithm 2; B is discretised by Euler's rule as in the released code.
    """
    inputs = Inputs(x, dt, A, B, C, D, z, dt_bias, initial_state)
    _check_shapes(inputs)
    chosen = resolve(backend, *inputs)
    if chosen == "reference":
        y, state = selective_scan_reference(inputs, reverse)
    else:
        y, state = selective_scan_op(*inputs, reverse, chosen)
    return (y, state) if return_last_state else y


def _check_shapes(inputs: Inputs) -> None:
    x, _, A, *_ = inputs
    if x.ndim != 3 or x.shape[1] < 1:
        raise InputError(f"selective_scan: x has shape {tuple(x.shape)}, expected (batch, length >= 1, d_inner)")
    if A.ndim != 2:
        raise InputError(f"selective_scan: A has shape {tuple(A.shape)}, expected (d_inner, d_state)")
    batch, length, d_inner = x.shape
    d_state = A.shape[1]
    per_token, per_state = (batch, length, d_inner), (batch, length, d_state)
    expected = (per_token, per_token, (d_inner, d_state), per_state, per_state, (d_inner,), per_token, (d_inner,))
    for name, tensor, shape in zip(Inputs._fields, inputs[:8], expected, strict=False):
        if tensor is not None and tuple(tensor.shape) != shape:
            raise InputError(f"selective_scan: {name} has shape {tuple(tensor.shape)}, expected {shape}")
    check_initial_state("selective_scan: ", inputs.initial_state, batch, A)


def check_initial_state(where: str, state: Tensor | None, batch: int, A: Tensor) -> None:
    """Raise ``InputError`` for initial states that do not fit; `where` is put before their name."""
    if state is not None and (
        state.shape[1:] != A.shape or state.ndim != 3 or (state.shape[0] != 1 and state.shape[0] != batch)
    ):
        expected = (batch, *A.shape)
        raise InputError(f"{where}initial_state has shape {tuple(state.shape)}, expected {expected} or {(1, *A.shape)}")
