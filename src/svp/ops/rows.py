"""How tensors reach the Numba kernels: float32, channels in blocks of sixteen."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch.nn.functional as F
from torch import Tensor

LANES = 16


class Rows(NamedTuple):
    """A tensor (batch, length, channels) whose channels are adjacent: a flat array, the strides of images and of tokens."""

    data: npt.NDArray[np.float32]
    image: int
    token: int


def rows(t: Tensor) -> Rows:
    """`t` (batch, length, channels) for a kernel; copied only where the dtype or distant channels ask for it."""
    t = t.detach().float()
    if t.stride(2) != 1 or t.numel() == 0:
        t = t.contiguous()
    batch, length, channels = t.shape
    image, token, _ = t.stride()
    span = (batch - 1) * image + (length - 1) * token + channels if t.numel() else 0
    return Rows(t.as_strided((span,), (1,)).numpy(), image, token)


def flat(t: Tensor) -> npt.NDArray[np.float32]:
    """The values of `t` in order."""
    return t.detach().float().contiguous().view(-1).numpy()


def pad_channels(t: Tensor) -> Tensor:
    """Zeros behind the last channel up to a full block; they change no sum over channels."""
    missing = -t.shape[-1] % LANES
    return F.pad(t.detach(), (0, missing)) if missing else t.detach()
