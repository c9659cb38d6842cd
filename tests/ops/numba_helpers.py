"""Tolerances and comparison for the compiled backends; the truth is the reference run in float64 on the same values."""

from __future__ import annotations

import torch
from torch import Tensor

TOLERANCES = {
    # largest error over 1 + largest value. Sums of some hundred products, an exp2 of 9e-8, measured up to 1e-6
    torch.float32: 5e-6,
    # arithmetic is float32, so one rounding of the result: 2**-8 and 2**-11 of its value
    torch.bfloat16: 3.95e-3,
    torch.float16: 4.95e-4,
}


def assert_close(actual: Tensor, truth: Tensor, name: str, tolerance: float | None = None) -> None:
    """`truth` in float64; `name` goes to the message."""
    assert actual.shape == truth.shape, f"{name}: shape {tuple(actual.shape)}, expected {tuple(truth.shape)}"
    if not actual.numel():
        return
    difference = (actual.double() - truth).abs()
    error = (difference.max() / (1 + truth.abs().max())).item()
    rms = (difference.square().mean().sqrt() / (1e-30 + truth.square().mean().sqrt())).item()
    tolerance = tolerance or TOLERANCES[actual.dtype]
    assert error <= tolerance, f"{name}: largest error {error:.1e} > {tolerance:.1e}, relative RMS {rms:.1e}"
