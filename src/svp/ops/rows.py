"""How tensors reach the Numba kernels: float32 or bfloat16, channels in blocks of sixteen."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

LANES = 16


class Rows(NamedTuple):
    """A tensor (batch, length, channels) whose channels are adjacent: a flat array, the strides of images and of tokens."""

    data: npt.NDArray[Any]
    image: int
    token: int


def rows(t: Tensor, dtype: torch.dtype = torch.float32) -> Rows:
    """`t` (batch, length, channels) for a kernel; copied only where the dtype or distant channels ask for it."""
    t = t.detach() if t.dtype == dtype else t.detach().to(dtype)
    batch, length, channels = t.shape
    if t.is_contiguous() or t.stride(2) != 1 or t.numel() == 0:
        return Rows(numpy_view(t.contiguous()).reshape(-1), length * channels, channels)
    image, token, _ = t.stride()
    span = (batch - 1) * image + (length - 1) * token + channels
    return Rows(numpy_view(t.as_strided((span,), (1,))), image, token)


def numpy_view(t: Tensor) -> npt.NDArray[Any]:
    """The memory of `t`, bfloat16 as int16: NumPy has no bfloat16."""
    return t.view(torch.int16).numpy() if t.dtype == torch.bfloat16 else t.numpy()


def flat(t: Tensor) -> npt.NDArray[np.float32]:
    """The values of `t` in order."""
    return np.ascontiguousarray(values(t)).reshape(-1)


def values(t: Tensor) -> npt.NDArray[np.float32]:
    """`t` as an array, which may share its memory: NumPy turns and slices small ones in less time than PyTorch."""
    array: npt.NDArray[np.float32] = (t if t.dtype == torch.float32 else t.float()).detach().numpy()
    return array


def pad_channels(t: Tensor) -> Tensor:
    """Zeros behind the last channel up to a full block; they change no sum over channels."""
    missing = -t.shape[-1] % LANES
    return F.pad(t.detach(), (0, missing)) if missing else t.detach()
