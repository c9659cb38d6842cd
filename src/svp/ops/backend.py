"""Which implementation an op runs on: the ``backend=`` argument, a surrounding ``use_backend``, or the choice of "auto"."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

import torch
from torch import Tensor

BACKENDS = ("auto", "reference", "any_device", "numba")
"""Names accepted by ``backend=``.

"reference" is the definition, differentiated by autograd; "any_device" is plain PyTorch too, with less memory in training;
"numba" is compiled for the CPU, computes in float32 and takes float32, bfloat16 and float16; "auto" takes the fastest
implementation that can run the call.
"""

_NUMBA_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

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
        return "any_device" if _not_for_numba(arguments) or _numba_failure() else "numba"
    if name == "numba":
        if reason := _not_for_numba(arguments):
            raise ValueError(f"backend 'numba' {reason}")
        if reason := _numba_failure():
            raise RuntimeError(f"backend 'numba' does not work here: {reason}")
    return name


def _not_for_numba(arguments: tuple[Tensor | None, ...]) -> str:
    """Why the kernels do not take these tensors; empty if they do."""
    for t in arguments:
        if t is None:
            continue
        if t.device.type != "cpu":
            return f"runs on the CPU, got a tensor on {t.device}; move it or use backend 'any_device'"
        if t.dtype not in _NUMBA_DTYPES:
            return f"takes float32, bfloat16 and float16, got {t.dtype}; use backend 'any_device'"
    return ""


@cache
def _import_kernels() -> str:
    """Why the Numba kernels cannot be loaded; empty if they can. The first call imports Numba."""
    try:
        for op in ("causal_conv1d", "selective_scan", "bidirectional_scan"):
            importlib.import_module(f"svp.ops.{op}.cpu_numba")
    except Exception as error:  # a broken or too old installation raises anything
        return f"{type(error).__name__}: {error}"
    return ""


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator, unused-ignore]  # torch.compile calls it, does not trace it
def _numba_failure() -> str:
    return _import_kernels()


def _known(name: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"unknown ops backend {name!r}; known: {', '.join(BACKENDS)}")
    return name
