"""What broke other scans in public, tried on ours: on a GPU where there is one, else by Triton's interpreter at smaller sizes.

mamba#884: offsets beyond 2**31. mamba#368: gradients. mamba#493: two backward passes that differ. triton#2441: another device.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from svp.ops import causal_conv1d, selective_scan
from tests.ops import test_numba_scan as scan
from tests.ops.test_triton import DEVICE, assert_all_close, gpu, here

pytest.importorskip("triton", minversion="3.3")
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, in the interpreter
ON_GPU = DEVICE == "cuda"


def sliced(length: int, d_inner: int, d_state: int) -> dict[str, Tensor | None]:
    """Arguments that are views of wider tensors, as a mixer cuts them out of its projections; dt_bias is among them."""
    arguments = scan.arguments(2, length, d_inner, d_state)
    for names in (("x", "z"), ("B", "C")):
        whole = torch.cat([arguments[name] for name in names], dim=-1)  # type: ignore[misc]
        arguments |= dict(zip(names, whole.chunk(2, dim=-1), strict=True))
    return arguments


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("length", [1, 2, 37, *(pytest.param(n, marks=gpu) for n in (197, 785))])
def test_lengths_with_bias_and_sliced_views_against_float64(length: int, reverse: bool) -> None:
    tensors = sliced(length, 384 if ON_GPU else 5, 16 if ON_GPU else 3)
    on_device = here(tensors)
    for name in ("x", "z", "B", "C"):  # `here` keeps strides, and so the views
        assert on_device[name].stride() == tensors[name].stride()  # type: ignore[union-attr]
    assert_all_close(scan.run("triton", on_device, reverse), scan.run("reference", on_device, reverse))


@pytest.mark.parametrize(("images", "channels"), [(1, 65_537), (65_537, 1)], ids=["channels", "images"])
@pytest.mark.parametrize("on", [pytest.param("gpu", marks=gpu), "meta"])
def test_more_than_a_grid_has_in_one_direction(images: int, channels: int, on: str) -> None:
    device = torch.device(DEVICE if on == "gpu" else "meta")
    x, dt = (torch.full((images, 2, channels), 0.5, device=device) for _ in range(2))
    A, state = -torch.ones(channels, 1, device=device), torch.ones(images, 2, 1, device=device)
    y = selective_scan(x, dt, A, state, state, backend="triton" if on == "gpu" else "any_device")
    assert y.shape == x.shape
    if on == "gpu":
        assert torch.equal(y, y[:1, :, :1].expand_as(y))
        convolved = causal_conv1d(x, torch.ones(channels, 4, device=device), activation=None, backend="triton")
        assert torch.equal(convolved[:, 1], x[:, 0] + x[:, 1])


def test_two_backward_passes_give_the_same_bits() -> None:
    tensors = here(scan.arguments(3, 785 if ON_GPU else 7, 768 if ON_GPU else 9, 16 if ON_GPU else 3))
    first, second = (scan.run("triton", tensors, False) for _ in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@gpu
@pytest.mark.parametrize("part", ["first", "last"])
def test_a_scan_beyond_32_bit_offsets(part: str) -> None:
    """2.2e9 values per tensor, in bfloat16 and without gate: 9 GB in all; the last image equals what it is alone."""
    images, length, d_inner = 2900, 1024, 768
    x = torch.zeros(images, length, d_inner, dtype=torch.bfloat16, device=DEVICE)
    which = 0 if part == "first" else images - 1
    x[which].normal_(generator=torch.Generator(DEVICE).manual_seed(0))
    A, state = -torch.ones(d_inner, 1, device=DEVICE), torch.ones(images, length, 1, dtype=torch.bfloat16, device=DEVICE)
    y = selective_scan(x, x, A, state, state, backend="triton")[which]
    alone = (t[which : which + 1] for t in (x, x))
    assert torch.equal(y, selective_scan(*alone, A, state[:1], state[:1], backend="triton")[0])
