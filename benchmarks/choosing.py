"""Does ``--lr auto`` pay on folders of 400 photos, and a learning rate of the head? Outcome: docs/results_learning_rate.md.

    python benchmarks/choosing.py CIFAR10 IMAGENETTE OUT [--seeds 0 1]

CIFAR10 and IMAGENETTE are folders with train/ and test/ (val/) of class folders. Five tasks are made below OUT/tasks, each of
400 training images, 15 % of which validate: handwritten digits, CIFAR-10, its rotations by 0, 90, 180 and 270 degrees,
Imagenette at 32 pixels, and four classes of CIFAR-10 with 200, 100, 60 and 40 images. Runs are kept and not repeated.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from sklearn.datasets import load_digits

import svp
from svp.training import make_config

COMMON: dict[str, Any] = dict(model="vim_nano.tiny_in200", epochs=10, precision="bf16", cache="memory", num_workers=0)
UPRIGHT = {"digits", "rotations"}
"""Tasks whose images must not be mirrored."""
WAYS: dict[str, dict[str, Any]] = {
    "default": {},
    "lr auto": {"lr": "auto"},
    "lr 0.015, head_lr 0.005": {"lr": 0.015, "head_lr": 0.005},
    "lr 0.015": {"lr": 0.015},
    "lr 0.0017": {"lr": 0.0017},
    "method auto": {"method": "auto"},
}
Item = tuple[str, str, str, Image.Image]


def images(cifar: Path, imagenette: Path) -> Iterator[Item]:
    """Task, part, class and picture."""
    digits = load_digits()
    order = list(range(len(digits.target)))
    random.Random(0).shuffle(order)
    for number, i in enumerate(order[:800]):
        picture = Image.fromarray((digits.images[i] * 255 / 16).astype("uint8")).resize((32, 32), Image.Resampling.BICUBIC)
        yield "digits", "train" if number < 400 else "test", str(digits.target[i]), picture
    names = sorted(folder.name for folder in (cifar / "train").iterdir())
    for part in ("train", "test"):
        for name in names:
            for path in drawn(cifar / part / name, 0, 40):
                yield "cifar10", part, name, Image.open(path)
        turned = (path for name in names for path in drawn(cifar / part / name, 60, 40))
        for number, path in enumerate(turned):
            angle = 90 * (number % 4)
            yield "rotations", part, f"{angle:03d}", Image.open(path).rotate(angle)
        own = imagenette / ("val" if part == "test" else part)
        for folder in sorted(own.iterdir()):
            for path in sorted(folder.iterdir())[:40]:
                yield "imagenette", part, folder.name, Image.open(path).resize((32, 32), Image.Resampling.LANCZOS)
    for name, count in zip(("cat", "dog", "horse", "deer"), (200, 100, 60, 40), strict=True):
        for part, first, taken in (("train", 200, count), ("test", 100, 100)):
            for path in drawn(cifar / part / name, first, taken):
                yield "uneven", part, name, Image.open(path)


def drawn(folder: Path, first: int, count: int) -> list[Path]:
    """Files of a folder, in a seeded order."""
    files = sorted(folder.iterdir())
    random.Random(1).shuffle(files)
    return files[first : first + count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("cifar", type=Path)
    parser.add_argument("imagenette", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tasks = arguments.out / "tasks"
    if not tasks.exists():
        for number, (task, part, name, picture) in enumerate(images(arguments.cifar, arguments.imagenette)):
            file = tasks / task / part / name / f"{number:05d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            picture.convert("RGB").save(file)
    for way, settings in WAYS.items():
        for seed in arguments.seeds:
            for task in sorted(tasks.iterdir()):
                own = {"augment": {"hflip": 0.0}} if task.name in UPRIGHT else {}
                out = arguments.out / "runs" / f"{task.name}, {way}, {seed}"
                values = COMMON | own | settings | {"data": str(task), "seed": seed, "out": str(out), "resume": True}
                began = time.process_time()
                result = svp.train(config=make_config(values), progress=False).result
                seconds = time.process_time() - began
                print(
                    f"{out.name}: {result.method}, lr {result.peak_lr:g}, {result.top1:.2%}, {seconds:.0f} CPU s", flush=True
                )


if __name__ == "__main__":
    main()
