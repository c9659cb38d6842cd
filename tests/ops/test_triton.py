"""The Triton kernels against the reference run in float64: on a GPU where there is one, else by Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from svp.ops import Direction, bidirectional_scan, causal_conv1d, selective_scan
from svp.ops.bidirectional_scan.library import bidirectional_scan_op
from svp.ops.bidirectional_scan.reference import flat_weights
from svp.ops.causal_conv1d.library import causal_conv1d_op
from svp.ops.selective_scan.library import selective_scan_op
from tests.ops import test_bidirectional_scan as both
from tests.ops import test_numba_conv as conv
from tests.ops import test_numba_scan as scan
from tests.ops.numba_helpers import TOLERANCES, assert_close
from tests.ops.test_numba_scan import OPTIONAL
from tests.processes import printed_by

triton = pytest.importorskip("triton", minversion="3.3")
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of inf and NaN in the interpreter
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

Arguments = dict[str, Tensor | None]


def here(tensors: Arguments) -> Arguments:
    """On the device of these tests, with the strides they have."""
    return {
        k: None if t is None else torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=DEVICE).copy_(t)
        for k, t in tensors.items()
    }


def tolerance(dtype: torch.dtype) -> float:
    """The interpreter cuts bfloat16 off where a GPU rounds it."""
    return 2**-7 if dtype == torch.bfloat16 and DEVICE == "cpu" else TOLERANCES[dtype]


def assert_all_close(actual: dict[str, Tensor], truth: dict[str, Tensor], at_least: float = 0.0) -> None:
    assert actual.keys() == truth.keys()
    for name, value in actual.items():
        assert_close(value, truth[name], name, max(at_least, tolerance(value.dtype)))


def check_scan(given_arguments: Arguments, reverse: bool, needed: Iterable[str] = scan.NAMES) -> None:
    tensors = here(given_arguments)
    actual = scan.run("triton", tensors, reverse, needed)
    assert actual["y"].dtype == tensors["x"].dtype  # type: ignore[union-attr]
    assert_all_close(actual, scan.run("reference", tensors, reverse, needed))


def check_conv(given_arguments: Arguments, activation: str | None, reverse: bool, needed: Iterable[str] = conv.NAMES) -> None:
    tensors = here(given_arguments)
    actual = conv.run("triton", tensors, activation, reverse, needed)
    assert_all_close(actual, conv.run("reference", tensors, activation, reverse, needed))


def moved(xz: Tensor, *sides: Direction, dtype: torch.dtype = torch.float32) -> tuple[Any, ...]:
    return xz.to(DEVICE, dtype), *(both.mapped(lambda w: w.to(DEVICE, dtype), side) for side in sides)


def check_both(xz: Tensor, forward: Direction, backward: Direction, at_least: float = 0.0) -> None:
    truth = both.run("reference", xz.double(), both.doubled(forward), both.doubled(backward), train=True)
    trained = both.run("triton", xz, forward, backward, train=True)
    assert_all_close(trained, truth, at_least)
    for name, value in both.run("triton", xz, forward, backward).items():
        assert torch.equal(value, trained[name]), f"{name} depends on what else is asked for"


# scan -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize(
    ("batch", "length", "d_inner", "d_state"), [(1, 1, 1, 1), (2, 9, 40, 16), (1, 4, 10, 64)], ids=lambda n: str(n)
)
def test_scan_equals_reference(batch: int, length: int, d_inner: int, d_state: int, reverse: bool) -> None:
    check_scan(scan.arguments(batch, length, d_inner, d_state), reverse)


@pytest.mark.exhaustive
@given(
    batch=st.integers(1, 2),
    length=st.integers(1, 10),
    d_inner=st.integers(1, 40),
    d_state=st.integers(1, 20),
    without=st.sets(st.sampled_from(OPTIONAL)),
    needed=st.sets(st.sampled_from(scan.NAMES), min_size=1),
    contiguous=st.booleans(),
    reverse=st.booleans(),
)
@example(1, 5, 33, 3, {"D", "z", "dt_bias"}, {"x", "dt", "B", "C"}, False, True)
@settings(max_examples=6, deadline=None)
def test_scan_equals_reference_anywhere(
    batch: int,
    length: int,
    d_inner: int,
    d_state: int,
    without: set[str],
    needed: set[str],
    contiguous: bool,
    reverse: bool,
) -> None:
    if not needed - without:
        needed = set(scan.NAMES)
    check_scan(scan.arguments(batch, length, d_inner, d_state, without, contiguous=contiguous), reverse, needed)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_scan_in_half_precision(dtype: torch.dtype) -> None:
    check_scan(scan.arguments(1, 6, 20, 5, dtype=dtype, contiguous=False), reverse=True)


def test_scan_with_mixed_dtypes_as_under_autocast() -> None:
    given_arguments = scan.arguments(1, 6, 20, 5)
    for name in ("x", "B", "C", "z"):
        tensor = given_arguments[name]
        assert tensor is not None
        given_arguments[name] = tensor.bfloat16()
    check_scan(given_arguments, reverse=False)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")], ids=str)
@pytest.mark.parametrize("name", scan.NAMES)
def test_scan_keeps_nan_and_inf(name: str, value: float) -> None:
    given_arguments = here(scan.arguments(2, 3, 5, 3))
    poisoned = given_arguments[name]
    assert poisoned is not None
    poisoned[(1,) * poisoned.ndim] = value
    for positive in ("B", "C", "D", "z"):  # or inf - inf would hide where an inf has become NaN
        given_arguments[positive] = given_arguments[positive].abs()  # type: ignore[union-attr]
    truth = selective_scan(**given_arguments, return_last_state=True, backend="reference")  # type: ignore[arg-type]
    actual = selective_scan(**given_arguments, return_last_state=True, backend="triton")  # type: ignore[arg-type]
    for a, b in zip(actual, truth, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("dt", [-100.0, -30.0, -7.0, 0.0, 25.0, 100.0])
def test_scan_with_extreme_steps_and_gates(dt: float) -> None:
    given_arguments = scan.arguments(1, 3, 16, 2, without=["dt_bias"])
    assert given_arguments["dt"] is not None
    assert given_arguments["z"] is not None
    given_arguments["dt"].fill_(dt)
    given_arguments["z"].copy_(torch.linspace(-100, 100, 16))
    check_scan(given_arguments, reverse=False)


def test_small_steps_are_exact_to_their_own_size() -> None:
    """log(1 + u) of a small u: steps of 1e-5 must not be rounded as if they were one."""
    x = torch.ones(1, 1, 8, device=DEVICE)
    dt = torch.linspace(-12, 2, 8, device=DEVICE).view(1, 1, 8)
    B = torch.ones(1, 1, 1, device=DEVICE)
    A = torch.zeros(8, 1, device=DEVICE)
    torch.testing.assert_close(
        selective_scan(x, dt, A, B, B, backend="triton"), torch.nn.functional.softplus(dt), rtol=5e-7, atol=0
    )


@pytest.mark.parametrize(
    "needed", [{"x"}, {"x", "dt", "B", "C", "z"}, {"A", "D"}, {"dt_bias"}], ids=lambda names: "+".join(sorted(names))
)
def test_kernels_compute_only_the_gradients_needed(needed: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from svp.ops.selective_scan import gpu_triton

    written: list[set[str]] = []
    launch = gpu_triton.launch
    names = ("x", "dt", "A", "B", "C", "D", "z", "dt_bias")  # in the order of the kernel

    def spy(kernel: Any, programs: int, like: Tensor, *given_arguments: Any, **constants: Any) -> None:
        if kernel is gpu_triton.scan_backward_kernel:
            written.append({name for name, grad in zip(names, given_arguments[13:21], strict=True) if grad is not None})
        launch(kernel, programs, like, *given_arguments, **constants)

    monkeypatch.setattr(gpu_triton, "launch", spy)
    scan.run("triton", here(scan.arguments(1, 2, 3, 2)), reverse=False, needed=needed)
    assert written == [needed]


# convolution ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_conv_equals_reference(reverse: bool) -> None:
    check_conv(conv.arguments(2, 19, 70, 4), "silu", reverse)


@given(
    batch=st.integers(1, 2),
    length=st.integers(1, 40),
    d_inner=st.integers(1, 70),
    d_conv=st.integers(1, 5),
    bias=st.booleans(),
    needed=st.sets(st.sampled_from(["x", "weight"]), min_size=1),
    activation=st.sampled_from(["silu", None]),
    contiguous=st.booleans(),
    reverse=st.booleans(),
)
@example(1, 1, 1, 5, True, {"x", "weight"}, "silu", True, True)
@settings(max_examples=8, deadline=None)
def test_conv_equals_reference_anywhere(
    batch: int,
    length: int,
    d_inner: int,
    d_conv: int,
    bias: bool,
    needed: set[str],
    activation: str | None,
    contiguous: bool,
    reverse: bool,
) -> None:
    check_conv(conv.arguments(batch, length, d_inner, d_conv, bias, contiguous=contiguous), activation, reverse, needed)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_conv_in_half_precision(dtype: torch.dtype) -> None:
    check_conv(conv.arguments(1, 7, 20, dtype=dtype, contiguous=False), "silu", reverse=False)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")], ids=str)
@pytest.mark.parametrize("name", conv.NAMES)
def test_conv_keeps_nan_and_inf(name: str, value: float) -> None:
    given_arguments = here(conv.arguments(2, 7, 20))
    poisoned = given_arguments[name]
    assert poisoned is not None
    poisoned[(1,) * poisoned.ndim] = value
    truth = causal_conv1d(**given_arguments, backend="reference")  # type: ignore[arg-type]
    actual = causal_conv1d(**given_arguments, backend="triton")  # type: ignore[arg-type]
    torch.testing.assert_close(actual, truth, rtol=1e-5, atol=1e-5, equal_nan=True)


# both directions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sizes",
    [dict(length=1), dict(d_state=16, d_inner=16), dict(d_conv=2, dt_rank=1), dict(batch=2, length=3, states=1)],
    ids=str,
)
def test_both_directions_equal_reference(sizes: dict[str, int]) -> None:
    check_both(*moved(*both.case(**dict(batch=1, length=6, d_inner=10) | sizes)))


def test_both_directions_in_bfloat16() -> None:
    # convolved inputs, projections and the sum of both scans are stored in bfloat16: some roundings of 2**-8 in a row
    check_both(*moved(*both.case(batch=1, length=6, d_inner=10), dtype=torch.bfloat16), at_least=5e-2)


@pytest.mark.parametrize(
    "trained",
    [{"forward.A"}, {"backward.conv_bias", "forward.x_proj"}, {"backward.initial_state"}],
    ids=lambda s: "+".join(sorted(s)),
)
def test_both_directions_with_some_weights_trained(trained: set[str]) -> None:
    xz, *sides = moved(*both.case(batch=1, length=3, d_inner=5, states=1))
    expected = both.run("triton", xz, *sides, train=True)
    leaves = {}
    for side, weights in zip(("forward", "backward"), sides, strict=True):
        leaves |= {
            f"{side}.{name}": weight.requires_grad_(f"{side}.{name}" in trained)
            for name, weight in weights._asdict().items()
            if weight is not None
        }
    out = bidirectional_scan(xz, *sides, backend="triton")
    grad_out = torch.linspace(-1, 2, out.numel(), dtype=torch.float64).view(out.shape).to(out)
    out.backward(grad_out)
    for name, leaf in leaves.items():
        if name in trained:
            assert torch.equal(leaf.grad, expected[name]), name
        else:
            assert leaf.grad is None


@pytest.mark.parametrize("channel", [3, 8], ids=["x", "z"])
def test_both_directions_keep_nan(channel: int) -> None:
    xz, forward, backward = moved(*both.case(d_inner=7, length=5))
    xz[1, 4, channel] = float("nan")
    actual = bidirectional_scan(xz, forward, backward, "triton")
    expected = bidirectional_scan(xz, forward, backward, "reference")
    assert torch.equal(actual.isnan(), expected.isnan())
    assert expected.isnan().any()


def test_nothing_but_the_input_is_kept_for_the_backward_pass() -> None:
    xz, forward, backward = moved(*both.case(batch=1, length=2, d_inner=3))
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        bidirectional_scan(xz.requires_grad_(), forward, backward, "triton")
    known = {tensor.data_ptr() for tensor in (xz, *forward[:7], *backward[:7])}
    assert {tensor.data_ptr() for tensor in kept} <= known


# PyTorch's view of the ops, and the choice of a backend -----------------------------------------------------------------


def test_memory_is_poisoned() -> None:
    """What the tests above rely on: a value that no kernel writes is NaN."""
    assert torch.zeros(1, device=DEVICE).new_empty(5).isnan().all()


@pytest.mark.parametrize("without", [(), OPTIONAL], ids=["all", "least"])
def test_opcheck_scan(without: tuple[str, ...]) -> None:
    tensors = [None if t is None else t.requires_grad_() for t in here(scan.arguments(1, 2, 3, 2, without)).values()]
    torch.library.opcheck(selective_scan_op, (*tensors, True, "triton"))


def test_opcheck_conv() -> None:
    tensors: list[Any] = [None if t is None else t.requires_grad_() for t in here(conv.arguments(1, 4, 3)).values()]
    torch.library.opcheck(causal_conv1d_op, (*tensors, "silu", True, "triton"))


@pytest.mark.parametrize("train", [False, True])
def test_opcheck_both_directions(train: bool) -> None:
    xz, forward, backward = moved(*both.case(batch=1, length=2, d_inner=3))
    weights = [weight.requires_grad_(train) for weight in flat_weights(forward, backward)]
    torch.library.opcheck(bidirectional_scan_op, (xz.requires_grad_(), weights, "triton"))


def test_compiles_without_a_break() -> None:
    given_case = moved(*both.case(batch=1, length=3, d_inner=5))
    compiled: Any = torch.compile(bidirectional_scan, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(*given_case, "triton"), bidirectional_scan(*given_case, "triton"))


def test_empty_batch() -> None:
    y, state = selective_scan(**here(scan.arguments(batch=0)), return_last_state=True, backend="triton")  # type: ignore[arg-type]
    assert (y.shape, state.shape) == ((0, 19, 40), (0, 40, 5))
    assert causal_conv1d(**here(conv.arguments(batch=0)), backend="triton").shape == (0, 19, 40)  # type: ignore[arg-type]


def test_named_backend_runs_or_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    given_arguments = here(scan.arguments(1, 2, 3, 2))
    exact = {k: None if t is None else t.double() for k, t in given_arguments.items()}
    with pytest.raises(ValueError, match=r"'triton' takes float32, bfloat16 and float16, got torch\.float64; use backend"):
        selective_scan(**exact, backend="triton")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'triton' takes tensors on one device"):
        selective_scan(**given_arguments | {"A": torch.zeros(3, 2, device="meta")}, backend="triton")  # type: ignore[arg-type]
    monkeypatch.setattr("svp.ops.backend._is_interpreted", lambda: False)
    on_cpu = scan.arguments(1, 2, 3, 2)
    with pytest.raises(
        ValueError, match="'triton' runs on CUDA devices, or anywhere under TRITON_INTERPRET=1, got a tensor on cpu"
    ):
        selective_scan(**on_cpu, backend="triton")  # type: ignore[arg-type]
    monkeypatch.setattr("svp.ops.backend._failure", lambda name: "ImportError: no module named triton")
    monkeypatch.setattr("svp.ops.backend._is_interpreted", lambda: True)
    with pytest.raises(RuntimeError, match="'triton' does not work here: ImportError: no module"):
        selective_scan(**given_arguments, backend="triton")  # type: ignore[arg-type]


def test_a_process_without_a_gpu_does_not_load_the_kernels_and_an_old_triton_is_named() -> None:
    code = (
        "import sys, torch\n"
        "from svp.ops import causal_conv1d, explain\n"
        "causal_conv1d(torch.zeros(1, 2, 3), torch.zeros(3, 2))\n"
        "causal_conv1d(torch.zeros(1, 2, 3, dtype=torch.float64), torch.zeros(3, 2))\n"
        "assert 'svp.ops.triton_math' not in sys.modules\n"
        "import triton\n"
        "triton.__version__ = '3.2.0'\n"
        "print(explain(device='cuda'))"
    )
    printed = printed_by(code)
    assert printed.startswith('"auto" for float32 on cuda: any_device')
    assert "no, ImportError: needs Triton 3.3 or newer, as PyTorch 2.7 brings it, found 3.2.0" in printed


# what the interpreter does not see --------------------------------------------------------------------------------------

COMPILE = """
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

class Hopper:
    get_current_target = staticmethod(lambda: GPUTarget("cuda", 90, 32))
    get_current_device = staticmethod(lambda: 0)
    get_current_stream = staticmethod(lambda device=None: 0)
    get_active_torch_device = staticmethod(lambda: torch.device("cpu"))

driver.set_active(Hopper())
from svp.ops.add_rms_norm import gpu_triton as norm
from svp.ops.add_rms_norm.reference import Inputs as NormInputs
from svp.ops.bidirectional_scan import gpu_triton
from svp.ops.bidirectional_scan.reference import Inputs as ScanInputs
from svp.ops.causal_conv1d import gpu_triton as conv
from svp.ops.selective_scan import gpu_triton as scan
from tests.ops.test_bidirectional_scan import case

def compile_only(kernel, programs, like, *arguments, **constants):
    kernel.warmup(*arguments, **constants, grid=(programs,))
    print(kernel.__name__)

for module in (gpu_triton, conv, scan, norm):
    module.launch = compile_only
xz, forward, backward = case(d_state=4, d_inner=16)
gpu_triton.backward([xz[..., :16].bfloat16()], ScanInputs(xz.bfloat16(), [*forward[:7], *backward[:7]]), [True] * 15)
hidden, scale = xz.bfloat16(), torch.ones(32)
prompts = [hidden] * 2, [scale] * 2, torch.ones(xz.shape[1], dtype=torch.bool)
options = 1e-5, torch.bfloat16
norm.forward(NormInputs(hidden, xz, scale, *prompts), *options)
norm.backward([xz, hidden], NormInputs(xz, None, scale, *prompts), [True, False] + [True] * 5 + [False], *options)
norm.forward(NormInputs(hidden, None, scale, [], [], None), *options)
norm.backward([xz, hidden], NormInputs(xz, None, scale, [], [], None), [True, False, False, False], *options)
"""


@pytest.mark.exhaustive
def test_kernels_compile_for_a_gpu(tmp_path: Any) -> None:
    """Types, constants and block shapes are checked by the compiler alone, which needs no GPU."""
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    environment["PYTHONPATH"] = os.pathsep.join(["src", "."])
    command = [sys.executable, "-c", COMPILE]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert set(printed.split()) == {
        "_conv_kernel",
        "scan_kernel",
        "scan_backward_kernel",
        "_conv_backward_kernel",
        "_forward_kernel",
        "_backward_kernel",
    }


@gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("length", [197, 1025])
def test_large_scan_on_a_gpu(length: int, dtype: torch.dtype) -> None:
    check_scan(scan.arguments(4, length, 768, 16, dtype=dtype), reverse=True)


@gpu
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_large_conv_on_a_gpu(reverse: bool) -> None:
    check_conv(conv.arguments(4, 1025, 768), "silu", reverse)


@gpu
@pytest.mark.parametrize("d_state", [5, 16, 64])
def test_large_both_directions_on_a_gpu(d_state: int) -> None:
    check_both(*moved(*both.case(batch=4, length=197, d_inner=384, dt_rank=12, d_state=d_state)), at_least=2e-5)


@gpu
def test_same_bits_in_every_run() -> None:
    given_case = moved(*both.case(batch=8, length=197, d_inner=384, d_state=16))
    first, second = (both.run("triton", *given_case, train=True) for _ in range(2))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@gpu
def test_in_a_cuda_graph() -> None:
    xz, forward, backward = moved(*both.case(batch=2, length=50, d_inner=64))
    xz.requires_grad_()

    def step() -> Tensor:
        return torch.autograd.grad(bidirectional_scan(xz, forward, backward, "triton").sum(), xz)[0]

    expected = step()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    graph.replay()
    assert torch.equal(captured, expected)


@gpu
def test_offsets_beyond_32_bits() -> None:
    x = torch.zeros(2900, 1024, 768, dtype=torch.bfloat16, device=DEVICE)  # 2.3e9 values
    x[-1, -1, -1] = 1
    y = causal_conv1d(x, torch.ones(768, 4, device=DEVICE), activation=None, backend="triton")
    assert y[-1, -1, -1] == 1
    assert y.sum(dtype=torch.float32) == 1


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_on_a_device_that_is_not_the_current_one() -> None:
    tensors = {k: None if t is None else t.to("cuda:1") for k, t in scan.arguments().items()}
    assert_all_close(scan.run("triton", tensors, False), scan.run("reference", tensors, False))
