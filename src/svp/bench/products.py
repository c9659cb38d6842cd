"""The matrix products of a step, and each at the best rate that this machine has for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from svp.bench.measure import take_turns

_PRODUCTS = {
    torch.ops.aten.mm.default: (0, 1),
    torch.ops.aten.bmm.default: (0, 1),
    torch.ops.aten.addmm.default: (1, 2),
    torch.ops.aten.baddbmm.default: (1, 2),
}
"""Where the two factors stand among the arguments."""


@dataclass(frozen=True)
class Factor:
    """A matrix or a batch of them, by shape and layout."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def make(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Normal noise in this layout."""
        extent = 1 + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))
        return torch.randn(extent, device=device, dtype=dtype).as_strided(self.shape, self.stride)


@dataclass(frozen=True)
class Product:
    """``left @ right``, plain or batched."""

    left: Factor
    right: Factor

    @property
    def flops(self) -> int:
        """Two per multiplication and addition."""
        *batch, rows, inner = self.left.shape
        count = 2 * rows * inner * self.right.shape[-1]
        for size in batch:
            count *= size
        return count


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.products: Counter[Product] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func in _PRODUCTS:
            left, right = (args[place] for place in _PRODUCTS[func])
            self.products[Product(_matrix(left), _matrix(right))] += 1
        elif func is torch.ops.aten.linear.default:  # whole in inference mode, as is conv2d
            tokens, weight = args[:2]
            self.products[Product(_matrix(tokens.flatten(0, -2)), _matrix(weight.t()))] += 1
        elif func in (torch.ops.aten.convolution.default, torch.ops.aten.conv2d.default):
            self.products[_as_product(args[0], args[1], args[3])] += 1
        return func(*args, **(kwargs or {}))


def _matrix(tensor: Tensor) -> Factor:
    return Factor(tuple(tensor.shape), tensor.stride())


def _as_product(images: Tensor, weight: Tensor, stride: list[int]) -> Product:
    """A patch embedding: patches times filters."""
    rows, columns = (
        (side - patch) // step + 1 for side, patch, step in zip(images.shape[2:], weight.shape[2:], stride, strict=True)
    )
    patches, inner = images.shape[0] * rows * columns, weight[0].numel()
    return Product(Factor((patches, inner), (inner, 1)), Factor((inner, weight.shape[0]), (1, inner)))


def matrix_products(step: Callable[[], object]) -> Counter[Product]:
    """Every matrix product that `step` runs, backward pass included, and how often; the patch embedding counts as one.

    `step` may work on tensors of the device "meta", where nothing is computed. A product inside a fused kernel is not seen, so
    it should run the unfused ops.
    """
    with _Recorder() as recorder:
        step()
    return recorder.products


def ways_to_multiply(product: Product, device: torch.device, dtype: torch.dtype) -> list[Callable[[], object]]:
    """What computes `product` for factors that are stored in `dtype`.

    PyTorch's own choice; on a CPU also oneDNN, with the right factor as it lies and in oneDNN's own layout, in which a frozen
    weight could be kept. Products of bfloat16 values may as well be computed in float32; the time to convert them does not
    count.
    """
    ways: list[Callable[[], object]] = []
    factors = [factor.make(device, dtype) for factor in (product.left, product.right)]
    for computed in {dtype, torch.float32} if device.type == "cpu" else {dtype}:
        left, right = (factor.to(computed) for factor in factors)
        ways.append(partial(torch.matmul, left, right, out=left @ right))
        if device.type == "cpu" and left.ndim == 2 and _onednn_takes(computed):
            packed = torch.ops.mkldnn._reorder_linear_weight(right.T.contiguous(), len(left))
            ways += [partial(torch.ops.mkldnn._linear_pointwise, left, w, None, "none", [], "") for w in (right.T, packed)]
    return ways


def _onednn_takes(dtype: torch.dtype) -> bool:
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # not on AVX2 alone


def product_runner(products: Counter[Product], device: torch.device, dtype: torch.dtype) -> Callable[[], None]:
    """A function that computes all `products` once, each in the fastest of the ways to multiply."""
    runs = [(_fastest(ways_to_multiply(product, device, dtype), device), count) for product, count in products.items()]

    def run() -> None:
        for multiply, count in runs:
            for _ in range(count):
                multiply()

    return run


def _fastest(ways: list[Callable[[], object]], device: torch.device) -> Callable[[], object]:
    timings = take_turns({str(number): way for number, way in enumerate(ways)}, 5, device, warmup=1).values()
    return min(zip(ways, timings, strict=True), key=lambda pair: min(pair[1].seconds))[0]
