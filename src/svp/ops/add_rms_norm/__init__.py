"""What a Vim block does in front of its mixer: prompts and hidden stream join the residual stream, which is normalized."""

from __future__ import annotations

import torch
from torch import Tensor

from svp.errors import InputError
from svp.ops.add_rms_norm.library import add_rms_norm_op
from svp.ops.add_rms_norm.recomputed import add_rms_norm_recomputed
from svp.ops.add_rms_norm.reference import LinearPrompt, Prompt, Prompts, add_prompts_reference, add_rms_norm_reference
from svp.ops.backend import describe, is_automatic, resolve

__all__ = ["LinearPrompt", "Prompt", "Prompts", "add_prompts", "add_rms_norm"]

_MOST_PROMPTS = 2  # that the kernels add in one pass
_FEW_VALUES = 200_000  # read by a call; with fewer PyTorch's own kernels are done on a CPU before ours are called


describe(
    "add_rms_norm",
    reference="sums and the norm of PyTorch",
    any_device="the reference",
    numba="one kernel; auto takes the reference for so few values that the call costs more",
    triton="one kernel",
)


def add_prompts(hidden: Tensor, prompts: Prompts) -> Tensor:
    """hidden + sum of the prompts where a token is prompted, in float32 or wider; differentiated by autograd.

    Raises:
        ValueError: A shape does not fit.
    """
    _check_prompts(hidden, prompts)
    return add_prompts_reference(hidden, prompts)


def add_rms_norm(
    hidden: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    eps: float = 1e-5,
    prompts: Prompts = Prompts(),  # noqa: B008  # a tuple
    dtype: torch.dtype | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Add prompts and residual to the hidden stream, then normalize.

        r = residual + hidden + sum_k scale_k * SiLU(pre_activation_k)        no prompts where a token is not prompted
        n = r / sqrt(mean(r^2) + eps) * weight                                mean over channels

    Both are computed in float32 or wider. Kept for the backward pass: r, which is a result, and the pre-activations; of a
    ``LinearPrompt`` the source alone, and what a first map makes of it.

    Args:
        hidden: Hidden stream, (batch, length, d_model).
        residual: Residual stream, (batch, length, d_model), or None in the first block.
        weight: Factor of the norm per channel, (d_model,).
        eps: Added to the mean square.
        prompts: What is added to `hidden`.
        dtype: Dtype of n; None takes that of `weight`.
        backend: One of ``svp.ops.BACKENDS``.

    Returns:
        r, in float32 or wider, and n in `dtype`; (batch, length, d_model) both.

    Raises:
        ValueError: A shape does not fit (names the argument, its shape and the one expected), more than two prompts, an
            unknown backend, or a named backend does not take this device or dtype.
        RuntimeError: The named backend does not work here.

    Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", arXiv:1910.07467; prompts as in arXiv:2412.08947.
    """
    if hidden.ndim != 3 or hidden.shape[1] < 1:
        raise InputError(f"add_rms_norm: hidden has shape {tuple(hidden.shape)}, expected (batch, length >= 1, d_model)")
    if residual is not None:
        _check_shape("residual", residual, tuple(hidden.shape))
    _check_shape("weight", weight, (hidden.shape[2],))
    _check_prompts(hidden, prompts)
    dtype = dtype or weight.dtype
    given_scales = [prompt.scale for prompt in prompts.terms]
    chosen = resolve(backend, hidden, residual, weight, *(prompt[0] for prompt in prompts.terms), *given_scales)
    if chosen in ("reference", "any_device") or (chosen == "numba" and is_automatic(backend) and _is_small(hidden, prompts)):
        return add_rms_norm_reference(hidden, residual, weight, eps, prompts, dtype)
    scales = [weight.new_ones(weight.shape) if scale is None else scale for scale in given_scales]
    prompted = prompts.prompted
    if prompts.terms and prompted is None:
        prompted = hidden.new_ones(hidden.shape[1], dtype=torch.bool)
    if torch.is_grad_enabled() and not torch.compiler.is_compiling() and _has_maps(prompts):
        return add_rms_norm_recomputed(hidden, residual, weight, prompts.terms, scales, prompted, eps, dtype, chosen)
    pre_activations = [prompt.pre_activation for prompt in prompts.terms]
    total, normed = add_rms_norm_op(hidden, residual, weight, pre_activations, scales, prompted, eps, dtype, chosen)
    return total, normed


def _is_small(hidden: Tensor, prompts: Prompts) -> bool:
    if torch.compiler.is_compiling():  # the batch may be of any size
        return False
    return hidden.numel() * (1 + len(prompts.terms)) < _FEW_VALUES


def _has_maps(prompts: Prompts) -> bool:
    return any(isinstance(prompt, LinearPrompt) for prompt in prompts.terms)


def _check_prompts(hidden: Tensor, prompts: Prompts) -> None:
    if len(prompts.terms) > _MOST_PROMPTS:
        raise InputError(f"add_rms_norm: {len(prompts.terms)} prompts, expected at most {_MOST_PROMPTS}")
    for i, prompt in enumerate(prompts.terms):
        if isinstance(prompt, LinearPrompt):
            _check_shape(f"source of prompt {i}", prompt.source, (*hidden.shape[:2], prompt.source.shape[-1]))
            width = prompt.source.shape[2]
            if prompt.first is not None:
                weight, bias = prompt.first
                _check_shape(f"first weight of prompt {i}", weight, (weight.shape[0], width))
                width = weight.shape[0]
                if bias is not None:
                    _check_shape(f"first bias of prompt {i}", bias, (width,))
            _check_shape(f"weight of prompt {i}", prompt.weight, (hidden.shape[2], width))
            if prompt.bias is not None:
                _check_shape(f"bias of prompt {i}", prompt.bias, (hidden.shape[2],))
        else:
            _check_shape(f"pre_activation of prompt {i}", prompt.pre_activation, tuple(hidden.shape))
        if prompt.scale is not None:
            _check_shape(f"scale of prompt {i}", prompt.scale, (hidden.shape[2],))
    if prompts.prompted is not None:
        _check_shape("prompted", prompts.prompted, (hidden.shape[1],))


def _check_shape(name: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != expected:
        raise InputError(f"add_rms_norm: {name} has shape {tuple(tensor.shape)}, expected {expected}")
