"""Exported files beside svp: speed on the CPU, size, time of loading and largest difference. About three minutes:

    python -m benchmarks.export_speed

Models have random weights, are tuned by SVP and have 6 of their 24 blocks, so that they are exported in seconds. Every batch
is classified by svp and by every file in turn. The least time of all rounds counts: of the calling thread where there is one,
else on the clock.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, thread_time

import torch
from torch import Tensor

import svp
from svp.data import InputConfig
from svp.export import onnx_file, torch_file
from svp.export.program import Classifier, trace

FILES = {"onnx": onnx_file, "onnx int8": onnx_file, "torch": torch_file}


def export(model: svp.models.Backbone, inputs: InputConfig, folder: Path) -> dict[str, Path]:
    """The files by name."""
    metadata = {"output": '{"output": "probabilities"}'}
    paths = {}
    for name, kind in FILES.items():
        paths[name] = folder / f"{name}{kind.SUFFIX}"
        kind.write(trace(model, inputs, kind.recurrence), metadata, paths[name])
        if "int8" in name:
            onnx_file.quantize(paths[name])
    return paths


def load(name: str, path: Path, size: int) -> Callable[[Tensor], Tensor]:
    """What runs a file, on as many threads as PyTorch; prints its size and how long that took, with one image."""
    start = perf_counter()
    run = FILES[name].load(path)
    run(torch.rand(1, 3, size, size))
    print(f"{name}: {path.stat().st_size / 1e6:.1f} MB, loaded in {perf_counter() - start:.1f} s", flush=True)
    return run


@torch.inference_mode()
def compare(runs: dict[str, Callable[[Tensor], Tensor]], images: Tensor, seconds: float) -> None:
    """Print images per second of each, and its ratio to the first."""
    clock = thread_time if torch.get_num_threads() == 1 else perf_counter
    expected = runs["svp"](images)
    difference = {name: (run(images) - expected).abs().max().item() for name, run in runs.items()}
    least = dict.fromkeys(runs, float("inf"))
    end = perf_counter() + seconds
    while perf_counter() < end:
        for name, run in runs.items():
            start = clock()
            run(images)
            least[name] = min(least[name], clock() - start)
    for name, time in least.items():
        speed, ratio = len(images) / time, least["svp"] / time
        print(f"  {name:9s} {speed:7.1f} images/s  {ratio:5.2f} of svp  differs by {difference[name]:.0e}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["vim_tiny", "vim_small"])
    parser.add_argument("--depth", type=int, default=6, help="blocks of the models")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--seconds", type=float, default=8, help="time per model, number of threads and batch size")
    options = parser.parse_args()
    for name in options.models:
        torch.manual_seed(0)
        model = svp.create_model(name, num_classes=100, depth=options.depth)
        svp.tune(model, "svp", shared_layers=1)
        inputs = InputConfig(img_size=32 if "nano" in name else 224)
        with tempfile.TemporaryDirectory() as folder:
            paths = export(model, inputs, Path(folder))
            for threads in options.threads:
                torch.set_num_threads(threads)
                print(f"{name}, {options.depth} blocks, {threads} threads")
                runs = {
                    "svp": Classifier(model, inputs).eval(),
                    **{file: load(file, path, inputs.img_size) for file, path in paths.items()},
                }
                for batch in options.batches:
                    print(f" batch {batch}")
                    compare(runs, torch.rand(batch, 3, inputs.img_size, inputs.img_size), options.seconds)


if __name__ == "__main__":
    main()
