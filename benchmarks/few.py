"""A few images of every class of a data set, for runs that must be short.

    python benchmarks/few.py cifar10-jpeg.zip cifar10-1000 --train 100 --val 30 --test 10

Images of each part are drawn by a seed; where the data brings no validation images, these are drawn from the training images.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from svp.data import load_image, open_data


def write_few(data: str, out: Path, counts: dict[str, int], seed: int = 0) -> None:
    """Write out/PART/CLASS with so many images of every class of each part of `data`."""
    source = open_data(data, seed=seed)
    for part, count in counts.items():
        split = source.splits[part]
        order = np.random.default_rng(seed).permutation(len(split))
        for label, name in enumerate(source.class_names):
            chosen = [i for i in order if split.labels[i] == label][:count]
            for i in chosen:
                file = out / part / name / f"{i:05d}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                load_image(split.paths[i]).save(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", help="as --data of svp train")
    parser.add_argument("out", type=Path, help="folder that is made")
    for part in ("train", "val", "test"):
        parser.add_argument(f"--{part}", type=int, default=10, help="images of every class")
    arguments = parser.parse_args()
    if arguments.out.exists():
        parser.error(f"{arguments.out} exists already")
    write_few(arguments.data, arguments.out, {part: getattr(arguments, part) for part in ("train", "val", "test")})


if __name__ == "__main__":
    main()
