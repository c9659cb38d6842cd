"""A data set of a structured task from any other: by how much was the picture turned?

    python benchmarks/rotations.py cifar10-jpeg.zip cifar10-rotations

Every image appears once, turned by 0, 90, 180 or 270 degrees, a quarter of each class and part by a seeded draw; a test image
stays one. Its class is the angle; what it shows does not matter any more. Files are PNG: a second JPEG compression after the
first, whose blocks were turned along, could give the angle away. Train with ``--augment.hflip 0``: the mirror image of a turn
by 90 degrees is one by 270.
"""

from __future__ import annotations

import argparse
from itertools import cycle
from pathlib import Path

import numpy as np

from svp.data import Split, load_image, open_data

ANGLES = (0, 90, 180, 270)


def write_rotations(data: str, out: Path, seed: int = 0) -> None:
    """Write out/train/ANGLE and out/test/ANGLE from the training and validation images, and the test images, of `data`."""
    source = open_data(data, seed=seed)
    for part, splits in (("train", (source.train, source.val)), ("test", (source.test,))):
        for number, (path, angle) in enumerate(turned(splits, seed)):
            file = out / part / f"{angle:03d}" / f"{number:05d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            load_image(path).rotate(angle, expand=True).save(file)


def turned(splits: tuple[Split, ...], seed: int) -> list[tuple[Path, int]]:
    """Every image and its angle; within a class the angles take turns."""
    pairs = sorted((label, path) for split in splits for path, label in zip(split.paths, split.labels, strict=True))
    order = np.random.default_rng(seed).permutation(len(pairs))
    angles = {label: cycle(ANGLES) for label, _ in pairs}
    return [(path, next(angles[label])) for label, path in (pairs[i] for i in order)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", help="as --data of svp train")
    parser.add_argument("out", type=Path, help="folder that is made")
    arguments = parser.parse_args()
    if arguments.out.exists():
        parser.error(f"{arguments.out} exists already")
    write_rotations(arguments.data, arguments.out)


if __name__ == "__main__":
    main()
