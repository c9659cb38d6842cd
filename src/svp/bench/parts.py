"""Where the time of a step goes on a CPU, beside the least that each part could take.

PyTorch's profiler gives every operator the time that it takes itself; our kernels are events of their own in it, so what
PyTorch does between them is seen too. The profiler itself takes some microseconds per operator, which small steps show.
"""

from __future__ import annotations

import importlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch.autograd.profiler import profile, record_function

from svp.bench.cases import Case, build, ours
from svp.bench.limit import mover, products_of, state_runner, work_of
from svp.bench.measure import Timing, take_turns
from svp.bench.products import Product, product_runner

GROUPS = ("scan forward", "scan backward", "convolution", "norms", "products", "prompters' products", "glue")
Weight = tuple[int, int]
"""Both sizes of a weight, the smaller one first."""

_CPU = torch.device("cpu")
_KERNEL, _STEP = "kernel ", "step"
_PRODUCTS = {"aten::mm": (0, 1), "aten::addmm": (1, 2), "mkldnn::_linear_pointwise": (0, 1)}
"""Operators that multiply, and where both factors stand."""


def time_of_parts(case: Case, rounds: int) -> tuple[dict[str, Timing], dict[str, Timing]]:
    """Time of every part of a step of a Vim, and its floor, both in seconds and one value per round.

    - "scan forward", "scan backward": our scan kernels; the floor is the instructions of the states.
    - "convolution", "norms": our kernels, prompts and residual in the second; the floor is their bytes.
    - "products", "prompters' products": of the backbone and of what SVP trains; the floor is the best rate.
    - "glue": everything else, PyTorch's and Python's; it could be nothing.
    """
    backbone = {_weight(product.right.shape[-2:]) for product in products_of(replace(case, mode="inference"))}
    floors = take_turns(_floors(case, backbone), rounds, _CPU)
    step = ours(case, _CPU)
    step()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler would tell of its starts, and of a GPU that is not there
    seconds: dict[str, list[float]] = {group: [] for group in GROUPS}
    for _ in range(rounds):
        with _kernels_as_events(), profile(record_shapes=True, use_kineto=False) as profiler, record_function(_STEP):
            step()
        spent = dict.fromkeys(GROUPS, 0.0)
        for event in profiler.key_averages(group_by_input_shape=True):
            spent[_group(event, backbone)] += event.self_cpu_time_total / 1e6
        for group, value in spent.items():
            seconds[group].append(value)
    return {group: Timing(tuple(values)) for group, values in seconds.items()}, floors


def _floors(case: Case, backbone: set[Weight]) -> dict[str, Callable[[], object]]:
    work = work_of(case)
    of_backbone = Counter({product: n for product, n in work.products.items() if _is_of(backbone, *_sizes(product))})
    convolution, norms = _bytes_of_kernels(case)
    return {
        "scan forward": state_runner(work.forward_states, 0),
        "scan backward": state_runner(0, work.backward_states),
        "convolution": mover(convolution, _CPU),
        "norms": mover(norms, _CPU),
        "products": product_runner(of_backbone, _CPU, case.dtype),
        "prompters' products": product_runner(work.products - of_backbone, _CPU, case.dtype),
        "glue": lambda: None,
    }


def _bytes_of_kernels(case: Case) -> tuple[int, int]:
    """What the convolutions and the norms of a step read and write, if each tensor goes through memory once."""
    model: Any = build(case, torch.device("meta"))
    stored, training = case.dtype.itemsize, case.mode == "training"
    tokens = case.batch_size * model.pos_embed.shape[1]
    inner = sum(block.mixer.d_inner for block in model.layers)
    width = model.embed_dim * len(model.layers)
    # x in, both sides out; back: x and the gradients of both sides in, that of x out
    convolution = tokens * inner * stored * (3 + 4 * training)
    # hidden, residual and two prompts in, residual and its norm out; back: their gradients, and the sum in
    norms = tokens * width * (2 * stored + 8 + training * (2 * stored + 12 + stored + 4 * stored))
    return convolution, norms


def _group(event: Any, backbone: set[Weight]) -> str:
    if event.key.startswith(_KERNEL):
        return _group_of_kernel(event.key.removeprefix(_KERNEL))
    if event.key in _PRODUCTS:
        left, right = (event.input_shapes[place] for place in _PRODUCTS[event.key])
        rows = torch.Size(left[:-1]).numel()
        columns = right[0] if event.key == "mkldnn::_linear_pointwise" else right[1]
        return "products" if _is_of(backbone, rows, left[-1], columns) else "prompters' products"
    return "products" if "convolution" in event.key else "glue"  # the patch embedding


def _group_of_kernel(name: str) -> str:
    if "conv" in name:
        return "convolution"
    if "norm" in name:
        return "norms"
    return "scan backward" if "backward" in name else "scan forward"


def _sizes(product: Product) -> tuple[int, int, int]:
    """Rows, inner size and columns."""
    return product.left.shape[-2], product.left.shape[-1], product.right.shape[-1]


def _weight(shape: Sequence[int]) -> Weight:
    return min(shape), max(shape)


def _is_of(backbone: set[Weight], rows: int, inner: int, columns: int) -> bool:
    """Whether a product is a map by one of the weights or a gradient of it, whole or some rows of the tokens at a time.

    A map and the gradient of its input have the weight on the right, the gradient of the weight has the weight's shape itself.
    """
    return _weight((inner, columns)) in backbone or _weight((rows, columns)) in backbone


@contextmanager
def _kernels_as_events() -> Iterator[None]:
    """Inside, every call of a Numba kernel is an event of PyTorch's profiler."""
    kernel_class: Any = importlib.import_module("svp.ops.compiling").Kernel
    call = kernel_class.__call__

    def recorded(kernel: Any, *arguments: Any) -> None:
        with record_function(_KERNEL + kernel._name.removeprefix("svp.ops.")):
            call(kernel, *arguments)

    kernel_class.__call__ = recorded
    try:
        yield
    finally:
        kernel_class.__call__ = call
