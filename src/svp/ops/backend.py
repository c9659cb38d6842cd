"""Which implementation an op runs on: the ``backend=`` argument, a surrounding ``use_backend``, or the choice of "auto"."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import torch
from torch import Tensor

BACKENDS = ("auto", "reference", "any_device", "numba", "triton")
"""Names accepted by ``backend=``.

"reference" is the definition, differentiated by autograd; "any_device" is plain PyTorch too, with less memory in training;
"numba" is compiled for the CPU and "triton" for the GPU, both compute in float32 and take float32, bfloat16 and float16;
"auto" takes the fastest implementation that can run the call. ``svp.ops.explain`` says which, and why.
"""

_OPS = ("causal_conv1d", "selective_scan", "bidirectional_scan")
_COMPILED = {"numba": "cpu_numba", "triton": "gpu_triton"}  # the file in the folder of every op
_FASTEST = {"cpu": "numba", "cuda": "triton"}
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_chosen: ContextVar[str] = ContextVar("svp_ops_backend", default="auto")


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run every op inside the ``with`` block on backend `name`, unless a call names another.

    Raises:
        ValueError: `name` is not one of ``svp.ops.BACKENDS``.
    """
    token = _chosen.set(_known(name))
    try:
        yield
    finally:
        _chosen.reset(token)


def resolve(requested: str, *arguments: Tensor | None) -> str:
    """The implementation to run for ``backend=requested`` on `arguments`; never "auto".

    Looks at devices and dtypes alone, so that fake tensors choose like real ones.

    Raises:
        ValueError: Unknown backend, or the named one does not take this device or dtype.
        RuntimeError: The named backend does not work here.
    """
    name = _known(requested)
    if name == "auto":
        name = _chosen.get()
    if name == "auto":
        fastest = _FASTEST.get(_device(arguments).type, "any_device")
        return "any_device" if _why_not(fastest, arguments) else fastest
    if reason := _refusal(name, arguments):
        raise ValueError(f"backend {name!r} {reason}; use backend 'any_device'")
    if reason := _failure(name):
        raise RuntimeError(f"backend {name!r} does not work here: {reason}")
    return name


def compiled(op: str, function: str) -> dict[str, Callable[..., Any]]:
    """By backend, a function of the kernels of `op`, whose modules are imported at the first call."""

    def lazy(file: str) -> Callable[..., Any]:
        return lambda *arguments: getattr(importlib.import_module(f"svp.ops.{op}.{file}"), function)(*arguments)

    return {name: lazy(file) for name, file in _COMPILED.items()}


def _device(arguments: tuple[Tensor | None, ...]) -> torch.device:
    return next(t.device for t in arguments if t is not None)


def _why_not(name: str, arguments: tuple[Tensor | None, ...]) -> str:
    return _refusal(name, arguments) or _failure(name)


def _refusal(name: str, arguments: tuple[Tensor | None, ...]) -> str:
    """Why the kernels of a backend do not take these tensors; empty if they do, and where it has none."""
    if name not in _COMPILED:
        return ""
    tensors = [t for t in arguments if t is not None]
    for t in tensors:
        if name == "numba" and t.device.type != "cpu":
            return f"runs on the CPU, got a tensor on {t.device}"
        if name == "triton" and t.device.type != "cuda" and not _is_interpreted():
            return f"runs on CUDA devices, or anywhere under TRITON_INTERPRET=1, got a tensor on {t.device}"
        if t.device != tensors[0].device:
            return f"takes tensors on one device, got {tensors[0].device} and {t.device}"
        if t.dtype not in _DTYPES:
            return f"takes float32, bfloat16 and float16, got {t.dtype}"
    return ""


@cache
def _import_kernels(name: str) -> str:
    """Why the kernels of a backend cannot be loaded; empty if they can. The first call imports Numba or Triton."""
    try:
        for op in _OPS:
            importlib.import_module(f"svp.ops.{op}.{_COMPILED[name]}")
    except Exception as error:  # a broken or too old installation raises anything
        return f"{type(error).__name__}: {error}"
    return ""


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator, unused-ignore]  # torch.compile calls it, does not trace it
def _failure(name: str) -> str:
    return _import_kernels(name) if name in _COMPILED else ""


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator, unused-ignore]
def _is_interpreted() -> bool:
    """Whether Triton's kernels are run by its interpreter, on any device."""
    return not _import_kernels("triton") and importlib.import_module("svp.ops.triton_math").INTERPRETED


def _known(name: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"unknown ops backend {name!r}; known: {', '.join(BACKENDS)}")
    return name
