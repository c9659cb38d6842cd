"""Which implementation an op runs on: the ``backend=`` argument, a surrounding ``use_backend``, or the choice of "auto"."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from svp.collector import collector_paused
from svp.errors import InputError, UnavailableError

BACKENDS = ("auto", "reference", "any_device", "numba", "triton")
"""Names accepted by ``backend=``.

"reference" is the definition, differentiated by autograd; "any_device" is plain PyTorch too, with less memory in training;
"numba" is compiled for the CPU and "triton" for the GPU, both compute in float32 and take float32, bfloat16 and float16;
"auto" takes the fastest implementation that can run the call. ``svp.ops.explain`` says which, and why.

The kernels have first derivatives in reverse mode alone. Inside the transforms of ``torch.func`` (grad, jvp, vmap and so on)
and in forward-mode AD "auto" and "any_device" take the reference, and "numba" and "triton" raise. Second derivatives by two
backward passes need "reference" or "any_device"; of a kernel they are an error.
"""

_FILES = {"any_device": "any_device", "numba": "cpu_numba", "triton": "gpu_triton"}  # in the folder of an op
_COMPILED = ("numba", "triton")
_FASTEST = {"cpu": "numba", "cuda": "triton"}
_KIND = {
    "reference": "the definition, never taken by auto",
    "any_device": "plain PyTorch, where nothing faster runs",
    "numba": "compiled for the CPU",
    "triton": "compiled for the GPU",
}
_HOW: dict[str, dict[str, str]] = {}  # what an op is, by op and backend
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
        ValueError: Unknown backend, or the named one does not take this device or dtype, or runs under no transform.
        RuntimeError: The named backend does not work here.
    """
    name = _known(requested)
    if name == "auto":
        name = _surrounding()
    if transformed():
        if name in _COMPILED:
            raise InputError(
                f"backend {name!r} runs neither inside torch.func nor in forward-mode AD; use backend 'reference'"
            )
        return "reference"
    kinds = list(dict.fromkeys((t.device, t.dtype) for t in arguments if t is not None))
    if name == "auto":
        return _auto(kinds)
    if reason := _refusal(name, kinds):
        raise InputError(f"backend {name!r} {reason}; use backend 'any_device'")
    if reason := _failure(name):
        raise UnavailableError(f"backend {name!r} does not work here: {reason}")
    return name


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator, unused-ignore]  # PyTorch 2.11 cannot trace it
def _surrounding() -> str:
    return _chosen.get()


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator, unused-ignore]
def transformed() -> bool:
    """Whether a transform of ``torch.func`` or forward-mode AD is at work, of which the kernels know nothing."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def is_automatic(requested: str) -> bool:
    """Whether ``backend=requested`` leaves the choice to us, the surrounding ``use_backend`` too."""
    return requested == "auto" and _surrounding() == "auto"


def takes_numba() -> bool:
    """Whether "auto" takes "numba" for tensors on the CPU in a dtype that it takes."""
    return _surrounding() in ("auto", "numba") and not transformed() and not _failure("numba")


def describe(op: str, **how: str) -> None:
    """Tell ``explain`` what an op is on every backend; it has kernels on those that are compiled."""
    _HOW[op] = how


@cache
def implementation(op: str, backend: str) -> Any:
    """The module that computes an op on a backend, imported at the first call."""
    return importlib.import_module(f"svp.ops.{op}.{_FILES[backend]}")


def explain(
    tensor: Tensor | nn.Module | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> str:
    """What "auto" takes for tensors on this device and in this dtype, and why: a line per backend and a line per op.

    Of a model it says, too, which blocks and mixers give up the fused ops, and because of what: a hook or a wrapper that
    cannot say what it makes of a weight, dropout on the way.

    Args:
        tensor: A tensor, or a model, whose device and dtype are taken; None takes the next two arguments.
        device: Device of the tensors; this machine need not have it.
        dtype: Dtype of the tensors; the widest one of a call decides.

    Returns:
        Some lines of text, to be printed.
    """
    model, tensor = (tensor, next(tensor.parameters())) if isinstance(tensor, nn.Module) else (None, tensor)
    kind = (tensor.device, tensor.dtype) if tensor is not None else (torch.device(device), dtype)
    surrounding = _surrounding()
    chosen = _auto([kind]) if surrounding == "auto" else surrounding
    title = f'"auto" for {str(kind[1]).removeprefix("torch.")} on {kind[0]}: {chosen}'
    if surrounding != "auto":
        title += f", because of the surrounding use_backend({surrounding!r})"
    if kind[0].type == "cuda" and not torch.cuda.is_available():
        title += " (PyTorch finds no CUDA device here)"
    lines = [title]
    for name in BACKENDS[1:]:
        refusal, failure = _refusal(name, [kind]), _failure(name)
        runs = f"no, it {refusal}" if refusal else f"no, {failure}" if failure else "yes"
        lines.append(f"  {name:<10}  {_KIND[name]}: {runs}")
    lines.append(f"ops on {chosen}")
    lines += [f"  {op:<18}  {how[chosen]}" for op, how in _HOW.items()]
    return "\n".join(lines + _unfused_in(model))


def _unfused_in(model: nn.Module | None) -> list[str]:
    """A line per kind of module that would use fused ops, which tells in ``unfused()`` what keeps it; a line per reason."""
    told: dict[str, dict[str, str]] = {}
    for name, module in model.named_modules() if model is not None else ():
        if hasattr(module, "unfused"):
            reasons = [f"{part} {reason}" for part, reason in module.unfused().items()]
            told.setdefault(type(module).__name__, {})[name or "the model"] = "; ".join(reasons)
    lines = []
    for kind, reasons_of in told.items():
        fused = sum(not reason for reason in reasons_of.values())
        lines.append(f"fused ops in {fused} of {len(reasons_of)} {kind}")
        for reason in dict.fromkeys(filter(None, reasons_of.values())):
            first, *others = [name for name, its in reasons_of.items() if its == reason]
            lines.append(f"  not in {first}{f' and {len(others)} more' if others else ''}: {reason}")
    return lines


def _auto(kinds: list[tuple[torch.device, torch.dtype]]) -> str:
    fastest = _FASTEST.get(kinds[0][0].type, "any_device")
    return "any_device" if _refusal(fastest, kinds) or _failure(fastest) else fastest


def _refusal(name: str, kinds: list[tuple[torch.device, torch.dtype]]) -> str:
    """Why the kernels of a backend do not take tensors on these devices, in these dtypes; empty if they do, or it has none."""
    if name not in _COMPILED:
        return ""
    for device, dtype in kinds:
        if name == "numba" and device.type != "cpu":
            return f"runs on the CPU, got a tensor on {device}"
        if name == "triton" and device.type != "cuda" and not _is_interpreted():
            return f"runs on CUDA devices, or anywhere under TRITON_INTERPRET=1, got a tensor on {device}"
        if device != kinds[0][0]:
            return f"takes tensors on one device, got {kinds[0][0]} and {device}"
        if dtype not in _DTYPES:
            return f"takes float32, bfloat16 and float16, got {dtype}"
    return ""


@cache
def _import_kernels(name: str) -> str:
    """Why the kernels of a backend cannot be loaded; empty if they can. The first call imports Numba or Triton."""
    try:
        with collector_paused():
            for op in _HOW:
                implementation(op, name)
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
        raise InputError(f"unknown ops backend {name!r}; known: {', '.join(BACKENDS)}")
    return name
