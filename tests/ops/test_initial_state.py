"""A scan that does not start at zero: in chunks it equals the whole, one state serves all images, and others are named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import svp
from svp.models.mixer import BidirectionalMamba
from svp.ops import selective_scan
from svp.ops.selective_scan.library import selective_scan_op
from tests.ops.numba_helpers import assert_close
from tests.ops.test_numba_scan import arguments, run
from tests.ops.test_reference import scan_arguments

SEQUENCES = ("x", "dt", "B", "C", "z")


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("backend", ["reference", "any_device"])
def test_chunks_equal_the_whole(backend: str, reverse: bool) -> None:
    leaves = {name: t.requires_grad_() for name, t in scan_arguments(length=11, d_inner=5).items()}
    options: dict[str, Any] = dict(reverse=reverse, return_last_state=True, backend=backend)
    whole, last = selective_scan(**leaves, **options)

    state, ys = leaves["initial_state"], []
    starts = [0, 4, 5]  # chunks of 4, 1 and 6 tokens
    for start, end in sorted(zip(starts, [*starts[1:], 11], strict=True), reverse=reverse):
        chunk = {name: t[:, start:end] if name in SEQUENCES else t for name, t in leaves.items()}
        y, state = selective_scan(**chunk | dict(initial_state=state), **options)
        ys.append(y)
    joined = torch.cat(ys[::-1] if reverse else ys, dim=1)

    tight = dict(rtol=1e-12, atol=1e-12)
    torch.testing.assert_close((joined, state), (whole, last), **tight)
    weight = torch.linspace(-1, 1, whole.numel(), dtype=torch.float64).view(whole.shape)
    grads, expected = (
        torch.autograd.grad((y * weight).sum() + h.sin().sum(), list(leaves.values()), retain_graph=True)
        for y, h in ((joined, state), (whole, last))
    )
    torch.testing.assert_close(grads, expected, **tight)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_one_state_serves_all_images(dtype: torch.dtype, reverse: bool) -> None:
    tensors = arguments(batch=3, length=70, d_inner=40, d_state=17, dtype=dtype)
    own = tensors["initial_state"]
    assert own is not None
    one = own[:1].to(dtype)
    shared = run("numba", tensors | dict(initial_state=one), reverse)
    repeated = run("numba", tensors | dict(initial_state=one.repeat(3, 1, 1)), reverse)
    truth = run("reference", tensors | dict(initial_state=one), reverse)
    for name, value in shared.items():
        if name != "gradient of initial_state":
            assert torch.equal(value, repeated[name]), name
        if name != "gradient of dt_bias":  # a sum of terms that cancel
            assert_close(value, truth[name], name)
    assert shared["gradient of initial_state"].shape == (1, 40, 17)


def test_gradient_of_the_state_alone() -> None:
    tensors = arguments(batch=2, d_inner=32)
    for backend in ("any_device", "numba"):
        grads = run(backend, tensors, False, needed=["initial_state"])
        assert_close(
            grads["gradient of initial_state"], run("reference", tensors, False)["gradient of initial_state"], backend
        )


@pytest.mark.parametrize("shape", [(2, 40), (3, 40, 5), (2, 5, 40), (0, 40, 5)])
def test_a_state_that_does_not_fit_is_named(shape: tuple[int, ...]) -> None:
    message = r"selective_scan: initial_state has shape \(.*\), expected \(2, 40, 5\) or \(1, 40, 5\)"
    with pytest.raises(svp.SvpError, match=message):
        selective_scan(**arguments() | dict(initial_state=torch.zeros(shape)))  # type: ignore[arg-type]


@pytest.mark.exhaustive  # that of every image is in the everyday tests
def test_opcheck_with_one_state_for_two_images() -> None:
    tensors = [t.requires_grad_() for t in scan_arguments(length=3, dtype=torch.float32).values()]
    tensors[-1] = tensors[-1].detach()[:1].requires_grad_()
    torch.library.opcheck(selective_scan_op, (*tensors, True, "numba"))


class _WithState(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mixer = BidirectionalMamba(16, d_state=4)
        self.state = torch.nn.Parameter(torch.randn(1, 32, 4))
        sides = self.mixer.sides
        self.mixer.sides = lambda: tuple(side._replace(initial_state=self.state) for side in sides())  # type: ignore[assignment, method-assign]

    def forward(self, u: Tensor) -> Tensor:
        return self.mixer(u)


def test_a_mixer_with_a_state_compiles_and_exports_for_any_batch() -> None:
    module, u = _WithState(), torch.randn(2, 5, 16)
    expected = module(u)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)(u)
    torch.testing.assert_close(compiled, expected)
    of_compiled, of_eager = (torch.autograd.grad(y.square().sum(), module.state) for y in (compiled, expected))
    torch.testing.assert_close(of_compiled, of_eager)
    program = torch.export.export(module, (u,), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
    for size in (1, 5):
        u = torch.randn(size, 5, 16)
        torch.testing.assert_close(program(u), module(u))


def test_fused_and_unfused_mixers_agree() -> None:
    module, u = _WithState(), torch.randn(2, 5, 16)
    fused = module(u)
    handle = module.mixer.conv1d.register_forward_hook(lambda *_: None)
    assert module.mixer.unfused()
    torch.testing.assert_close(module(u), fused)
    handle.remove()
