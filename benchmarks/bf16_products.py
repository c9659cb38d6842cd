"""bfloat16 beside float32 on a processor that has no instructions for it, and what it was without upcast products.

    ONEDNN_MAX_CPU_ISA=AVX512_CORE GOMP_SPINCOUNT=0 python benchmarks/bf16_products.py vim_small training --batch 8

The three take turns in one process on one thread; the figure of each is the best of its rounds, in time of the processor.
"""

from __future__ import annotations

import argparse
import importlib
import time
from collections.abc import Callable
from typing import Any

import torch

from svp.bench.cases import Case, ours

products: Any = importlib.import_module("svp.ops.linear")  # the package has the function under this name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="vim_tiny")
    parser.add_argument("mode", nargs="?", default="inference", choices=("inference", "training"))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    native = products.has_bf16_products

    def step_of(precision: Any) -> Callable[[], object]:
        return ours(Case(options.model, options.mode, precision, options.batch, options.size), torch.device("cpu"))

    bf16 = step_of("bf16")
    steps = {"fp32": step_of("fp32"), "bf16": bf16, "bf16 before": bf16}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(options.rounds + 1):
        for name, step in steps.items():
            products.has_bf16_products = (lambda: True) if name == "bf16 before" else native
            start = time.process_time()
            step()
            seconds[name].append(time.process_time() - start)
    best = {name: min(values[1:]) for name, values in seconds.items()}
    rates = ", ".join(f"{name} {options.batch / value:.2f}" for name, value in best.items())
    print(f"{options.model} {options.mode}, batch {options.batch}, products in bf16 by the processor: {native()}")
    print(f"images/s of one core: {rates}")
    print(f"speed over that of fp32: {best['fp32'] / best['bf16']:.2f}, before {best['fp32'] / best['bf16 before']:.2f}")


if __name__ == "__main__":
    main()
