"""The official CUDA kernels (`selective_scan` of mamba_ssm, `causal_conv1d`) beside ours: equal outcomes, and times.

    python -m benchmarks.gpu_official --build --out DIR     compile them for this card from the sources in .gpu/
    python -m benchmarks.gpu_official --out DIR             compare

Only what is called is compiled, for one card, so that three minutes do. With ``TRITON_INTERPRET=1`` it says what it would do.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_scan import REHEARSAL, milliseconds
from svp.ops import causal_conv1d, selective_scan

SOURCES = {
    "selective_scan_cuda": ("mamba_ssm-*.tar.gz", "csrc/selective_scan"),
    "causal_conv1d_cuda": ("causal_conv1d-*.tar.gz", "csrc"),
}
_FLAGS = [
    *("-O3", "--expt-relaxed-constexpr", "--expt-extended-lambda", "--use_fast_math"),
    *(
        f"-U__CUDA_NO_{name}__"
        for name in ("HALF_OPERATORS", "HALF_CONVERSIONS", "BFLOAT16_OPERATORS", "BFLOAT16_CONVERSIONS")
    ),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--build", action="store_true")
    parser.add_argument("--batch", type=int, default=2 if REHEARSAL else 96)
    options = parser.parse_args()
    place = options.out / "official"
    if options.build:
        for name, (pattern, folder) in SOURCES.items():
            build(name, pattern, folder, place)
        return
    report: dict[str, Any] = {"rows": []}
    for name, compare in (("selective_scan_cuda", compare_scan), ("causal_conv1d_cuda", compare_conv)):
        module = None if REHEARSAL else load(name, place / name)
        if module is None:
            report[name] = "a rehearsal" if REHEARSAL else f"not built, see {options.out / 'official-build.log'}"
            print(f"{name}: {report[name]}")
        else:
            for dtype in (torch.bfloat16, torch.float32):
                row = compare(module, options.batch, dtype)
                report["rows"].append(row)
                print(row, flush=True)
        (options.out / "official.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def build(name: str, pattern: str, folder: str, place: Path) -> None:
    """Compile an extension; a failure of one says so and leaves the other."""
    from torch.utils import cpp_extension

    archives = sorted(Path(".gpu").glob(pattern))
    if not archives:
        print(f"{name}: .gpu/ holds no {pattern}; benchmarks/gpu.sh --pack fetches it")
        return
    with tarfile.open(archives[-1]) as archive:
        archive.extractall(place / "sources", filter="data")
    sources = next((place / "sources").glob(pattern.removesuffix(".tar.gz"))) / folder
    files = [path for path in sorted(sources.iterdir()) if path.suffix in (".cpp", ".cu")]
    (place / name).mkdir(parents=True, exist_ok=True)
    major, minor = torch.cuda.get_device_capability()
    os.environ["TORCH_CUDA_ARCH_LIST"] = f"{major}.{minor}"
    os.environ.setdefault("MAX_JOBS", str(os.cpu_count() or 1))
    try:
        cpp_extension.load(
            name,
            [str(file) for file in files],
            extra_cuda_cflags=_FLAGS,
            build_directory=str(place / name),
            is_python_module=True,
        )
        print(f"{name}: built")
    except Exception as error:  # of a compiler
        print(f"{name}: {error}")


def load(name: str, folder: Path) -> Any:
    """The extension that was built, or None."""
    file = folder / f"{name}.so"
    if not file.is_file():
        return None
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def compare_scan(module: Any, batch: int, dtype: torch.dtype) -> dict[str, Any]:
    """Forward alone, and forward and backward, of Vim-S: theirs wants (batch, channels, length)."""
    length, d_inner, d_state = 197, 768, 16
    x, dt, z, grad = (torch.randn(batch, length, d_inner, device="cuda", dtype=dtype) for _ in range(4))
    B, C = (torch.randn(batch, length, d_state, device="cuda", dtype=dtype) for _ in range(2))
    A, D = -torch.rand(d_inner, d_state, device="cuda") * 8, torch.ones(d_inner, device="cuda")
    dt_bias = torch.full((d_inner,), -4.0, device="cuda")
    theirs = [t.transpose(1, 2).contiguous() for t in (x, dt, B, C, z, grad)]
    u, delta, B_t, C_t, z_t, grad_t = theirs
    B_t, C_t = B_t.unsqueeze(1), C_t.unsqueeze(1)  # one group

    def forward() -> Any:
        return module.fwd(u, delta, A, B_t, C_t, D, z_t, dt_bias, True)

    def both() -> Any:
        out, states, *_ = forward()
        return module.bwd(u, delta, A, B_t, C_t, D, z_t, dt_bias, grad_t, states, out, None, True, False)

    leaves = [t.requires_grad_() for t in (x, dt, B, C, z)]

    def ours() -> Tensor:
        return selective_scan(x, dt, A, B, C, D, z, dt_bias, backend="triton")

    def ours_both() -> object:
        return torch.autograd.grad(ours(), leaves, grad)

    with torch.no_grad():
        difference = (ours() - forward()[2].transpose(1, 2)).float().norm() / ours().float().norm()
        row = {"op": "selective_scan", "dtype": str(dtype), "batch": batch, "relative difference": difference.item()}
        row |= {"forward, ms": milliseconds(ours, 20), "official forward, ms": milliseconds(forward, 20)}
    return row | {"both, ms": milliseconds(ours_both, 20), "official both, ms": milliseconds(both, 20)}


def compare_conv(module: Any, batch: int, dtype: torch.dtype) -> dict[str, Any]:
    """Forward, in the layout of each."""
    x = torch.randn(batch, 197, 768, device="cuda", dtype=dtype)
    weight, bias = torch.randn(768, 4, device="cuda", dtype=dtype), torch.randn(768, device="cuda", dtype=dtype)
    theirs = x.transpose(1, 2).contiguous()
    out = torch.empty_like(theirs)

    def official() -> Tensor:
        module.causal_conv1d_fwd(theirs, weight, bias, None, None, out, None, True)
        return out

    def ours() -> Tensor:
        return causal_conv1d(x, weight, bias, backend="triton")

    difference = (ours() - official().transpose(1, 2)).float().norm() / ours().float().norm()
    times: dict[str, Callable[[], object]] = {"forward, ms": ours, "official forward, ms": official}
    measured = {name: milliseconds(function, 20) for name, function in times.items()}
    return {"op": "causal_conv1d", "dtype": str(dtype), "batch": batch, "relative difference": difference.item(), **measured}


if __name__ == "__main__":
    main()
