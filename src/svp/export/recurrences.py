"""The loop of the selective scan in two forms: one for runtimes with a loop of their own, one for PyTorch without any."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 14


def token_by_token(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor]:
    """A ``svp.export.operators.Recurrence`` by PyTorch's ``scan`` operator, which is ``Scan`` in ONNX.

    Unrolled, the loop would fill the file with six nodes per token, direction and layer.
    """
    step = softplus(dt)
    # the operator runs over the first axis, forward; singleton axes are put here, not once per token
    sequences = [step.unsqueeze(2), (step * x).unsqueeze(2), B.unsqueeze(3), C.unsqueeze(2)]
    backward = torch.arange(x.shape[0] - 1, -1, -1)  # ONNX has a direction for it: see svp.export.onnx_graph
    sequences = [t.index_select(0, backward) if reverse else t.contiguous() for t in sequences]
    h = x.new_zeros(x.shape[1], A.shape[1], A.shape[0])
    if state is not None:
        h = h + state.transpose(1, 2)
    h, y = torch.ops.higher_order.scan(_token, [h], sequences, (A.T.contiguous(),))
    return (y.index_select(0, backward) if reverse else y).squeeze(2), h.transpose(1, 2)


def _token(h: Tensor, step: Tensor, step_x: Tensor, B: Tensor, C: Tensor, A: Tensor) -> list[Tensor]:
    """The next state, (batch, d_state, d_inner), and y; channels last in memory, which they are many of.

    Products of a column and a row are matrix products: runtimes have faster code for those than for broadcasting.
    """
    h = torch.exp(step * A) * h + B @ step_x
    return [h, C @ h]


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)) within 1.3e-6 of itself, by operators that runtimes have vectorized.

        r = 1 / (exp(|x|) + 1/2);        softplus(x) = max(x, 0) + log(1 + exp(-|x|)),  log(1 + exp(-|x|)) = 2 artanh(r / 2)

    2 artanh(r / 2) / r is a ratio of linear functions of r^2, r <= 2/3, written with as few operators as it takes. onnxruntime
    computes its own Softplus value by value, 10 ns each: ten times the time of this.
    """
    r = (torch.exp(x.abs()) + 0.5).reciprocal()
    numerator = torch.full((), -3.55723068, dtype=x.dtype)  # a Python number over a tensor would be two operators
    return x.relu() + r * (numerator / (r * r - 6.53525809) + 0.45568745)


def in_chunks(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor]:
    """A ``svp.export.operators.Recurrence`` by the ``scan`` operator over chunks of tokens, for PyTorch.

    PyTorch runs a step of that operator from Python in the time of twenty others.
    """
    missing = -x.shape[0] % CHUNK

    def chunks(t: Tensor, axis: int) -> Tensor:
        """(chunks, CHUNK, batch, ...) in the order of the loop; the tokens that are missing at its end take no step."""
        t = F.pad(t.flip(0) if reverse else t, (0, 0, 0, 0, 0, missing))
        return t.reshape(-1, CHUNK, *t.shape[1:]).unsqueeze(axis).contiguous()

    step = F.softplus(dt)
    sequences = [chunks(step, 3), chunks(step * x, 3), chunks(B, 4), chunks(C, 3)]
    h = x.new_zeros(x.shape[1], A.shape[1], A.shape[0])
    if state is not None:
        h = h + state.transpose(1, 2)
    h, y = torch.ops.higher_order.scan(_chunk, [h], sequences, (A.T / math.log(2),))
    y = torch.cat(y.squeeze(3).unbind(0))[: x.shape[0]]  # flatten would have PyTorch 2.11 compare strides
    return y.flip(0) if reverse else y, h.transpose(1, 2)


def _chunk(h: Tensor, step: Tensor, step_x: Tensor, B: Tensor, C: Tensor, log2_decay: Tensor) -> list[Tensor]:
    """The state behind a chunk, and y of its tokens; powers of two take PyTorch a quarter of the time of exp."""
    y = []
    for step_, step_x_, B_, C_ in zip(*(t.unbind(0) for t in (step, step_x, B, C)), strict=True):
        h = torch.addcmul(B_ * step_x_, torch.exp2(step_ * log2_decay), h)
        y.append(C_ @ h)
    return [h, torch.stack(y)]
