"""Images per second that reach the model: decoded every time, and decoded once (`--cache memory`), in one run.

    python benchmarks/input_pipeline.py [FOLDER] [--images 384] [--size 224x224] [--rounds 7] [--json FILE]

FOLDER is searched for images; without one, photo-like JPEGs of `--size` are made. Both pipelines end at the same place:
normalized float batches in the main process. They take turns, round by round, and every pair of turns gives a ratio.
`--model` takes a training step of Vim-nano (SVP) at the same size on every batch as well, on two threads.

    python benchmarks/input_pipeline.py [FOLDER] --per-core [--images 24] [--size 500x375] [--rounds 5]

measures one core: its time per image for decoding, transform and collating, by Pillow and torchvision alone, as svp does it,
and with `--decode scaled`; and how many such cores feed 3,000 images a second.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as the `svp` command has it

import numpy as np
import psutil
import torch
from PIL import Image, ImageFilter

from svp.data import (
    AugmentConfig,
    ImageListDataset,
    ImageReader,
    InputConfig,
    KeptImageDataset,
    Place,
    Split,
    eval_transform,
    find_images,
    make_loader,
    normalized,
    train_transform,
)
from svp.data.pipeline.faster import faster, warm_up
from svp.data.pipeline.transforms import least_side

CASES = {
    "default augmentation": AugmentConfig(),
    "paper's augmentation": AugmentConfig(scale_min=0.08, auto_augment="rand-m9-mstd0.5-inc1", random_erasing=0.25),
    "evaluation": None,
}
PER_CORE = {
    "training": AugmentConfig(),
    "training without a policy": AugmentConfig(auto_augment=None, color_jitter=0.0),
    "evaluation": None,
}
BATCH = 32
INPUTS = InputConfig()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--images", type=int, default=384, help="how many are used")
    parser.add_argument("--size", default="224x224", help="of images made, width x height")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--model", action="store_true", help="train on every batch")
    parser.add_argument("--per-core", action="store_true", help="time of one core per image, by part and by way")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    options = parser.parse_args()
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as temporary:
        if options.folder is None:
            make_photos(Path(temporary), options.images, *map(int, options.size.split("x")))
        paths = find_images([options.folder or Path(temporary)])[: options.images]
        report = {"machine": machine(paths), "results": []}
        print(json.dumps(report["machine"], indent=2))
        if options.per_core:
            per_core(paths, options.rounds)
            return
        split = Split(tuple(paths), tuple(0 for _ in paths), "benchmark")
        step = model_step() if options.model else None
        for case, augment in CASES.items():
            for workers in options.workers:
                row = {"case": case, "workers": workers} | compare(split, augment, workers, options.rounds, step)
                report["results"].append(row)
                print(
                    f"{case:21} {workers} workers   plain {row['plain']:6.0f} ({spread(row['plain_rounds'])})   "
                    f"cached {row['cached']:6.0f} ({spread(row['cached_rounds'])}) images/s   "
                    f"{row['ratio']:.2f} times ({spread(row['ratio_rounds'], 2)})",
                    flush=True,
                )
    print(json.dumps(report))
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def compare(
    split: Split, augment: AugmentConfig | None, workers: int, rounds: int, step: Callable[[Any], None] | None
) -> dict[str, Any]:
    """Medians of images/s and of their ratio, and every round."""
    transform = eval_transform(INPUTS) if augment is None else train_transform(INPUTS, augment)
    sets = {"plain": ImageListDataset(split, transform), "cached": KeptImageDataset(split, transform, Place("memory"))}
    loaders = {
        name: make_loader(images, BATCH, train=augment is not None, num_workers=workers) for name, images in sets.items()
    }

    def rate(name: str) -> float:
        started = time.perf_counter()
        for batch in normalized(loaders[name], INPUTS):
            if step is not None:
                step(batch)
        return len(split) / (time.perf_counter() - started)

    for name in loaders:
        rate(name)  # starts the workers, warms caches
    turns = [(rate("plain"), rate("cached")) for _ in range(rounds)]
    ratios = [cached / plain for plain, cached in turns]
    plain, cached = zip(*turns, strict=True)
    return {
        "plain": statistics.median(plain),
        "cached": statistics.median(cached),
        "ratio": statistics.median(ratios),
        "plain_rounds": plain,
        "cached_rounds": cached,
        "ratio_rounds": ratios,
    }


def per_core(paths: list[Path], rounds: int) -> None:
    """Print milliseconds of the processor per image; the least of the rounds, in which the ways take turns."""
    torch.set_num_threads(1)
    warm_up()
    print("| | | decode | transform | collate | all, ms | images/s | cores for 3,000/s |")
    print("| --- | --- | --: | --: | --: | --: | --: | --: |")
    for case, augment in PER_CORE.items():
        transform = eval_transform(INPUTS) if augment is None else train_transform(INPUTS, augment)
        ways = {"Pillow": (ImageReader(), transform), "svp": (ImageReader(), faster(transform))}
        if augment is not None:
            ways["svp, scaled"] = (ImageReader(least_side=least_side(INPUTS, augment)), faster(transform))
        least = {way: [math.inf] * 3 for way in ways}
        for _ in range(rounds):
            for way, (read, prepare) in ways.items():
                seconds = one_batch(paths, read, prepare)
                least[way] = [min(pair) for pair in zip(least[way], seconds, strict=True)]
        for way, seconds in least.items():
            parts = [1000 * part / len(paths) for part in seconds]
            rate = 1000 / sum(parts)
            numbers = [*(f"{part:.2f}" for part in (*parts, sum(parts))), f"{rate:.0f}", f"{3000 / rate:.1f}"]
            print(f"| {case} | {way} | {' | '.join(numbers)} |", flush=True)


def one_batch(paths: list[Path], read: Callable[[Path], Any], prepare: Callable[[Any], Any]) -> list[float]:
    """Seconds of the processor for decoding, transform and collating."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    times = [time.process_time()]
    images = [read(path) for path in paths]
    times.append(time.process_time())
    tensors = [prepare(image) for image in images]
    times.append(time.process_time())
    torch.stack(tensors)
    times.append(time.process_time())
    return [end - start for start, end in pairwise(times)]


def model_step() -> Callable[[Any], None]:
    """A training step of the smallest Vim with SVP, at 224 pixels in patches of 16."""
    import svp

    model = svp.create_model("vim_nano", img_size=INPUTS.img_size, patch_size=16, stride=16, num_classes=10)
    tuner = svp.tune(model, method="svp")
    optimizer = torch.optim.AdamW(tuner.trainable_parameters(), lr=1e-4)

    def step(batch: Any) -> None:
        images, labels, _ = batch
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def make_photos(folder: Path, number: int, width: int, height: int) -> None:
    """JPEGs that take as long to decode as photos: smooth shapes, edges, and noise, about 2.5 bits per pixel."""
    random = np.random.default_rng(0)
    for index in range(number):
        coarse = Image.fromarray(random.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        smooth = coarse.resize((width, height), Image.Resampling.BICUBIC)
        edges = coarse.resize((width, height), Image.Resampling.NEAREST).filter(ImageFilter.GaussianBlur(0.7))
        noise = random.normal(0, 8, (height, width, 1))
        pixels = (np.asarray(smooth, dtype=float) + np.asarray(edges)) / 2 + noise
        data = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(data, "JPEG", quality=90)
        (folder / f"{index:05}.jpg").write_bytes(data.getvalue())


def machine(paths: list[Path]) -> dict[str, Any]:
    sizes = [Image.open(path).size for path in paths]
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": psutil.getloadavg(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pillow": Image.__version__,
        "images": len(paths),
        "median_size": [statistics.median(side) for side in zip(*sizes, strict=True)],
        "median_bytes": statistics.median(path.stat().st_size for path in paths),
    }


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def spread(values: list[float], digits: int = 0) -> str:
    return f"{min(values):.{digits}f}..{max(values):.{digits}f}"


if __name__ == "__main__":
    main()
