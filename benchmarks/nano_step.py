"""Time of a training step of ``vim_nano_patch4_32`` at 32 pixels.

    OMP_NUM_THREADS=1 python benchmarks/nano_step.py --method svp --batch-size 8
    GOMP_SPINCOUNT=20000 python benchmarks/nano_step.py       # how long waiting threads of GCC's OpenMP spin

Prints the median wall time of a step and the least CPU time of one, in ms.
"""

from __future__ import annotations

import argparse
import time

from svp.process import prepare

prepare()  # before PyTorch is imported

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

import svp  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description="Time of a training step of vim_nano_patch4_32 at 32 pixels.")
    parser.add_argument("--method", default="svp")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    model = svp.create_model("vim_nano", num_classes=10)
    tuner = svp.tune(model, options.method)
    optimizer = torch.optim.AdamW(tuner.trainable_parameters(), fused=True)
    images, labels = torch.randn(options.batch_size, 3, 32, 32), torch.randint(0, 10, (options.batch_size,))
    wall, processor = [], []
    end = time.monotonic() + options.seconds
    while time.monotonic() < end or len(wall) < 4:
        started, started_cpu = time.perf_counter(), time.process_time()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        wall.append(time.perf_counter() - started)
        processor.append(time.process_time() - started_cpu)
    wall, processor = wall[3:], processor[3:]  # the first ones compile
    median = sorted(wall)[len(wall) // 2]
    used = 1e3 * min(processor)
    print(f"{options.method}, batch {options.batch_size}, {len(wall)} steps: {1e3 * median:.0f} ms, CPU {used:.0f} ms")


if __name__ == "__main__":
    main()
