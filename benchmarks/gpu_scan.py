"""How near the Triton kernels are to what the GPU allows: one scan against its two floors, Vim-S against its matrix products.

    python -m benchmarks.gpu_scan [--parts scan model pretrain] [--batch 96] [--rounds 20] [--compiled] [--json FILE]

Every ceiling is measured in the same run: bytes per second by a copy, exponentials per second by a kernel that does little
else, matrix products by replaying those of a step alone. *Floor of a scan*: the longer of the time to move its arguments and
results once and the time to take one exponential per state and token. "eager" is the reference (PyTorch, differentiated by
autograd) at a smaller batch, "compiled" the same with every mixer through ``torch.compile``; their times are per image too.

"bf16" stores weights and activations in bfloat16, "autocast" is what ``svp train --precision bf16`` does. "pretrain" is a
step of all weights under autocast. Every row is printed and written as it comes.

With ``TRITON_INTERPRET=1`` the same runs at tiny sizes on the CPU, to try the script: the figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import svp
from svp.ops import selective_scan, use_backend

REHEARSAL = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if REHEARSAL else "cuda"
MODEL = "vim_nano" if REHEARSAL else "vim_small"
DEPTH: dict[str, int] = {"depth": 2} if REHEARSAL else {}
LENGTH, D_INNER, D_STATE = (5, 8, 4) if REHEARSAL else (197, 768, 16)  # of Vim-S at 224 pixels
PRECISIONS = ("fp32", "tf32", "bf16", "autocast")
DTYPE = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "autocast": torch.float32}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=("scan", "model"), choices=("scan", "model", "pretrain"))
    parser.add_argument("--batch", type=int, default=2 if REHEARSAL else 96)
    parser.add_argument("--size", type=int, default=8 if REHEARSAL else 224, help="pixels of the model's images")
    parser.add_argument("--reference-batch", type=int, default=8, help="0 leaves the references out")
    parser.add_argument("--compile", action="store_true", help="torch.compile of the model in bf16 too: a minute per task")
    parser.add_argument(
        "--compiled", action="store_true", help="torch.compile of the reference too: minutes per precision and task"
    )
    parser.add_argument("--rounds", type=int, default=1 if REHEARSAL else 20)
    parser.add_argument("--precision", nargs="+", default=PRECISIONS, choices=PRECISIONS)
    parser.add_argument("--json", type=Path, help="write the figures there as they come")
    options = parser.parse_args()
    if not (REHEARSAL or torch.cuda.is_available()):
        sys.exit("PyTorch finds no CUDA device, and this measures nothing else; TRITON_INTERPRET=1 tries the script")
    report: dict[str, Any] = {"machine": machine(), "rehearsal": REHEARSAL}
    print(json.dumps(report))

    def write() -> None:
        if options.json:
            options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")

    for name in options.parts:
        report[name] = []
        for row in {"scan": scans, "model": models, "pretrain": pretraining}[name](options, report):
            report[name].append(row)
            print(
                ", ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items())
            )
            sys.stdout.flush()
            write()
    write()


def scans(options: argparse.Namespace, report: dict[str, Any]) -> Iterator[dict[str, Any]]:
    report["ceilings"] = ceilings(options.rounds)
    print(json.dumps(report["ceilings"]))
    for dtype in (torch.float32, torch.bfloat16):
        yield from scan_rows(options.batch, dtype, report["ceilings"], options.rounds)


def models(options: argparse.Namespace, _: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for precision in sorted(options.precision, key=("bf16", "fp32", "tf32", "autocast").index):  # what matters most first
        for training in (True, False):
            yield model_row(precision, training, options)
    if options.compile and not REHEARSAL:
        for training in (True, False):
            yield own_compiled_row(training, options)


def own_compiled_row(training: bool, options: argparse.Namespace) -> dict[str, Any]:
    """Our model in bf16 through ``torch.compile``, its kernels as they are, in CUDA graphs where PyTorch can."""
    step, _ = model_step("bf16", training, options.batch, options.size, whole=True)
    start = time.perf_counter()
    step()
    torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    ms = milliseconds(step, options.rounds)
    task = "SVP training step" if training else "inference"
    return {
        "task": f"{task}, torch.compile",
        "precision": "bf16",
        "batch": options.batch,
        "images_per_s": options.batch / ms * 1e3,
        "first_call_s": seconds,
    }


def pretraining(options: argparse.Namespace, _: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A step that trains all weights, as from scratch."""
    for name in (MODEL,) if REHEARSAL else ("vim_tiny", "vim_small"):
        step, resident = model_step("autocast", True, options.batch, options.size, name=name, tuned=False)
        ms = milliseconds(step, options.rounds)
        yield {
            "model": name,
            "task": "step of all weights",
            "precision": "autocast",
            "batch": options.batch,
            "images_per_s": options.batch / ms * 1e3,
            "mb_per_image": peak_memory(step, resident) / options.batch / 2**20,
        }


def milliseconds(function: Callable[[], object], rounds: int) -> float:
    """Median over `rounds`, by events on the device."""
    for _ in range(1 if REHEARSAL else 3):
        function()
    times = []
    for _ in range(rounds if REHEARSAL else 0):
        began = time.perf_counter()
        function()
        times.append((time.perf_counter() - began) * 1e3)
    for _ in range(0 if REHEARSAL else rounds):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        function()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def peak_memory(step: Callable[[], object], resident: int) -> int:
    """Bytes that a step takes beside what is there before it; 0 in a rehearsal."""
    if REHEARSAL:
        return 0
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated() - resident


def machine() -> dict[str, Any]:
    if REHEARSAL:
        return {"device": "CPU, a rehearsal", "torch": torch.__version__, "triton": triton.__version__}
    device = torch.cuda.get_device_properties(0)
    return {
        "device": device.name,
        "multiprocessors": device.multi_processor_count,
        "memory_gb": round(device.total_memory / 1e9, 1),
        "torch": torch.__version__,
        "triton": triton.__version__,
    }


# ceilings ---------------------------------------------------------------------------------------------------------------


def ceilings(rounds: int) -> dict[str, float]:
    """Bytes and exponentials per millisecond."""
    source = torch.randn(2**10 if REHEARSAL else 2**28, device=DEVICE)  # 1 GiB, far beyond the cache
    target = torch.empty_like(source)
    copy = milliseconds(lambda: target.copy_(source), rounds)
    return {
        "bytes_per_ms": 2 * source.nbytes / copy,
        "exponentials_per_ms": exponentials_per_ms(rounds),
    }


@triton.jit
def _exponentials(x, y, REPEAT: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + at)
    for _ in range(REPEAT):
        value = tl.exp2(-value)  # stays between 0 and 1
    tl.store(y + at, value)


def exponentials_per_ms(rounds: int) -> float:
    values, repeat, block = (2**5, 2, 2**5) if REHEARSAL else (2**22, 512, 1024)
    x = torch.rand(values, device=DEVICE)
    y = torch.empty_like(x)
    return repeat * values / milliseconds(lambda: _exponentials[(values // block,)](x, y, repeat, block), rounds)


# one scan ---------------------------------------------------------------------------------------------------------------


def scan_rows(batch: int, dtype: torch.dtype, ceiling: dict[str, float], rounds: int) -> list[dict[str, Any]]:
    """Forward, and backward for frozen parameters as in SVP."""
    x, dt, z, grad = (torch.randn(batch, LENGTH, D_INNER, device=DEVICE, dtype=dtype) for _ in range(4))
    B, C = (torch.randn(batch, LENGTH, D_STATE, device=DEVICE, dtype=dtype) for _ in range(2))
    A = -torch.rand(D_INNER, D_STATE, device=DEVICE) * 8
    D, dt_bias = torch.ones(D_INNER, device=DEVICE), torch.full((D_INNER,), -4.0, device=DEVICE)
    leaves = [t.requires_grad_() for t in (x, dt, B, C, z)]

    def forward() -> Tensor:
        return selective_scan(x, dt, A, B, C, D, z, dt_bias, backend="triton")

    y = forward()
    with torch.no_grad():
        forward_ms = milliseconds(forward, rounds)
    backward_ms = milliseconds(lambda: torch.autograd.grad(y, leaves, grad, retain_graph=True), rounds)
    exp_ms = batch * LENGTH * D_INNER * D_STATE / ceiling["exponentials_per_ms"]
    read = x.nbytes + dt.nbytes + z.nbytes + B.nbytes + C.nbytes
    rows = []
    for name, ms, moved in (("forward", forward_ms, read + y.nbytes), ("backward", backward_ms, 2 * read + grad.nbytes)):
        bytes_ms = moved / ceiling["bytes_per_ms"]
        floor = max(bytes_ms, exp_ms)
        rows.append(
            {
                "pass": name,
                "dtype": str(dtype).removeprefix("torch."),
                "batch": batch,
                "ms": ms,
                "bytes_ms": bytes_ms,
                "exp_ms": exp_ms,
                "ratio": floor / ms,
            }
        )
    return rows


# the model --------------------------------------------------------------------------------------------------------------


def model_row(precision: str, training: bool, options: argparse.Namespace) -> dict[str, Any]:
    """Inference, or a training step of SVP, on the fastest backend and on the reference."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    step, resident = model_step(precision, training, options.batch, options.size)
    ms = milliseconds(step, options.rounds)
    peak = peak_memory(step, resident)
    products = matrix_products(step)
    matmul_ms = milliseconds(lambda: replay(products), options.rounds)
    del step

    def reference(compiled: bool) -> float:
        reference_step, _ = model_step(precision, training, options.reference_batch, options.size, compiled)
        with use_backend("reference"):
            return options.reference_batch / milliseconds(reference_step, 3) * 1e3

    return {
        "task": "SVP training step" if training else "inference",
        "precision": precision,
        "batch": options.batch,
        "images_per_s": options.batch / ms * 1e3,
        "model": MODEL,
        "matmul_images_per_s": options.batch / matmul_ms * 1e3,
        "ratio": matmul_ms / ms,
        **({"eager_reference_images_per_s": reference(False)} if options.reference_batch else {}),
        **({"compiled_reference_images_per_s": reference(True)} if options.reference_batch and options.compiled else {}),
        "mb_per_image": peak / options.batch / 2**20,
    }


def model_step(
    precision: str,
    training: bool,
    batch: int,
    size: int,
    compiled: bool = False,
    whole: bool = False,
    name: str = MODEL,
    tuned: bool = True,
) -> tuple[Callable[[], object], int]:
    """The step, and the bytes that model and batch occupy.

    Args:
        precision: One of `PRECISIONS`.
        training: A step of AdamW rather than inference.
        batch: Images.
        size: Their side in pixels.
        compiled: Each mixer through ``torch.compile``.
        whole: The whole model through it.
        name: The model.
        tuned: By SVP, the backbone frozen.
    """
    model = svp.create_model(name, img_size=size, num_classes=100, **DEPTH)
    if tuned:
        svp.tune(model, method="svp", shared_layers=min(8, len(model.layers)))
    model.to(DEVICE, DTYPE[precision]).train(training)
    for block in model.layers if compiled else ():
        block.mixer.compile()  # a whole loop over time in one graph; layers share it
    if whole:
        model.compile(mode="reduce-overhead")
    images = torch.randn(batch, 3, size, size, device=DEVICE, dtype=DTYPE[precision])
    labels = torch.randint(100, (batch,), device=DEVICE)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)

    def autocast() -> AbstractContextManager[Any]:
        return torch.autocast(DEVICE, torch.bfloat16) if precision == "autocast" else nullcontext()

    def train() -> None:
        with autocast():
            loss = F.cross_entropy(model(images).float(), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    @torch.no_grad()
    def infer() -> Tensor:
        with autocast():
            return model(images)

    return (train if training else infer), 0 if REHEARSAL else torch.cuda.memory_allocated()


class _Recorder(TorchDispatchMode):
    """Counts the matrix products that pass through PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.products: Counter[tuple[Any, ...]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.bmm.default):
            pair = args[-2:]
            self.products[tuple((tuple(t.shape), t.stride(), t.dtype) for t in pair)] += 1
        return func(*args, **(kwargs or {}))


def matrix_products(step: Callable[[], object]) -> list[tuple[Tensor, Tensor, int]]:
    """Those of one step, on random operands. On "any_device", where none is hidden inside an op; its scans have none."""
    recorder = _Recorder()
    with use_backend("any_device"), recorder:
        step()

    def operand(shape: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        made = torch.randn(shape, device=DEVICE, dtype=dtype)
        return made if 0 in stride else torch.empty_strided(shape, stride, device=DEVICE, dtype=dtype).copy_(made)

    return [(operand(*left), operand(*right), count) for (left, right), count in recorder.products.items()]


def replay(products: list[tuple[Tensor, Tensor, int]]) -> None:
    for left, right, count in products:
        for _ in range(count):
            left @ right


if __name__ == "__main__":
    main()
