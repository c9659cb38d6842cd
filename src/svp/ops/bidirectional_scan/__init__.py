"""What a Vim mixer does between its first and its last projection, in both directions at once."""

from __future__ import annotations

from torch import Tensor

from svp.errors import InputError
from svp.ops.backend import describe, resolve
from svp.ops.bidirectional_scan.library import bidirectional_scan_op
from svp.ops.bidirectional_scan.reference import Direction, bidirectional_scan_composed, flat_weights
from svp.ops.rows import LANES
from svp.ops.selective_scan import check_initial_state

__all__ = ["Direction", "bidirectional_scan"]


describe(
    "bidirectional_scan",
    reference="convolution and scan, one after the other",
    any_device="convolution and scan, one after the other",
    numba="fused if d_inner is a multiple of 16, else convolution and scan",
    triton="a kernel for both convolutions, a kernel for every scan",
)


def bidirectional_scan(xz: Tensor, forward: Direction, backward: Direction, backend: str = "auto") -> Tensor:
    """Convolve, project, scan in both directions, gate, and take the mean.

        x, z = xz                                          first and second half of the channels
        x'          = SiLU(causal_conv1d(x))               of every direction its own, as all that follows
        p_dt, B, C  = x_proj x'
        y           = selective_scan(x', dt_proj p_dt, A, B, C, D, z, dt_bias, initial_state)
        out         = (y_forward + y_backward) / 2

    On "triton", and on "numba" if d_inner is a multiple of 16, fused kernels keep `xz` alone for the backward pass and leave
    out the gradients of frozen weights; in every other case, and if d_conv, dt_rank or d_state of the directions differ,
    convolution and scan are called one after the other on the same backend.

    Args:
        xz: Output of the mixer's first projection, (batch, length, 2 d_inner).
        forward: Weights of the direction from the first token to the last.
        backward: Weights of the direction from the last token to the first.
        backend: One of ``svp.ops.BACKENDS``.

    Returns:
        (batch, length, d_inner) in the dtype of `xz`.

    Raises:
        ValueError: A shape does not fit (names the argument, its shape and the one expected), an unknown backend, or a
            named backend does not take this device or dtype.
        RuntimeError: The named backend does not work here.

    Source: Zhu et al., arXiv:2401.09417, Algorithm 1; the mean of both directions as in the released "v2" blocks.
    """
    _check_shapes(xz, forward, backward)
    chosen = resolve(backend, xz, *forward, *backward)
    if _are_alike(forward, backward) and (chosen == "triton" or (chosen == "numba" and xz.shape[2] % (2 * LANES) == 0)):
        out: Tensor = bidirectional_scan_op(xz, flat_weights(forward, backward), chosen)
        return out
    return bidirectional_scan_composed(xz, forward, backward, chosen)


def _are_alike(forward: Direction, backward: Direction) -> bool:
    """Whether d_conv, dt_rank and d_state are those of both directions."""
    return (
        forward.conv_weight.shape == backward.conv_weight.shape
        and forward.dt_proj.shape == backward.dt_proj.shape
        and forward.A.shape == backward.A.shape
    )


def _check_shapes(xz: Tensor, forward: Direction, backward: Direction) -> None:
    if xz.ndim != 3 or xz.shape[1] < 1 or xz.shape[2] % 2:
        shape = tuple(xz.shape)
        raise InputError(f"bidirectional_scan: xz has shape {shape}, expected (batch, length >= 1, 2 d_inner)")
    d_inner = xz.shape[2] // 2
    for side, weights in (("forward", forward), ("backward", backward)):
        for name, weight in (("conv_weight", weights.conv_weight), ("dt_proj", weights.dt_proj), ("A", weights.A)):
            if weight.ndim != 2:
                shape = tuple(weight.shape)
                raise InputError(f"bidirectional_scan: {side}.{name} has shape {shape}, expected two dimensions")
        d_conv, dt_rank, d_state = weights.conv_weight.shape[1], weights.dt_proj.shape[1], weights.A.shape[1]
        expected = (
            (d_inner, d_conv),
            (d_inner,),
            (dt_rank + 2 * d_state, d_inner + (weights.x_proj.ndim == 2 and weights.x_proj.shape[1] == d_inner + 1)),
            (d_inner, dt_rank),
            (d_inner,),
            (d_inner, d_state),
            (d_inner,),
        )
        shapes = tuple(tuple(weight.shape) for weight in weights[:7])
        for name, found, shape in zip(Direction._fields, shapes, expected, strict=False) if shapes != expected else ():
            if found != shape:
                raise InputError(f"bidirectional_scan: {side}.{name} has shape {found}, expected {shape}")
        check_initial_state(f"bidirectional_scan: {side}.", weights.initial_state, xz.shape[0], weights.A)
