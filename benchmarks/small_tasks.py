"""Tasks of 1,000 training and 1,000 test images of 32 x 32 pixels: objects, angles of photos, and what is drawn.

    python -m benchmarks.small_tasks cifar10-jpeg.zip imagenette-224.zip tasks

Below OUT: ``cifar10``; ``rotations``, other images of it, whose class is the angle that they are turned by; ``imagenette``,
scaled down, all 400 and 200 images; and the tasks of ``benchmarks/drawn_tasks.py``. With scikit-learn's digits they are those
of ``benchmarks/methods_on_seven_tasks.yaml``. Tiny ImageNet is not among them: the embedded backbone has seen all its classes
(``benchmarks/held_out_classes.py``).
"""

from __future__ import annotations

import argparse
import io
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import numpy as np
from PIL import Image

from benchmarks.drawn_tasks import NUMBER, SIDE, TASKS, write_task
from benchmarks.rotations import ANGLES

SEED = 0


def photos(archive: Path, part: str, first: int, each: int) -> Iterator[tuple[str, Image.Image]]:
    """Class and image: `each` of every class of PART/CLASS/FILE in a zip file, in a seeded order from the `first`."""
    with ZipFile(archive) as file:
        classes = defaultdict(list)
        for name in sorted(file.namelist()):
            if name.startswith(f"{part}/") and not name.endswith("/"):
                classes[name.split("/")[1]].append(name)
        for number, (label, names) in enumerate(classes.items()):
            order = np.random.default_rng((SEED, number)).permutation(len(names))
            for index in order[first : first + each]:
                image = Image.open(io.BytesIO(file.read(names[index]))).convert("RGB")
                yield label, image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def write(pairs: Iterator[tuple[str, Image.Image]], folder: Path) -> None:
    """Write FOLDER/CLASS/NUMBER.png."""
    for number, (label, image) in enumerate(pairs):
        file = folder / label / f"{number:05d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        image.save(file)


def turned(pairs: Iterator[tuple[str, Image.Image]]) -> Iterator[tuple[str, Image.Image]]:
    """The angles take turns within a class, whose images are in a seeded order."""
    for number, (_, image) in enumerate(pairs):
        angle = ANGLES[number % len(ANGLES)]
        yield f"{angle:03d}", image.rotate(angle)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("cifar10", type=Path, help="zip file with train/ and test/ of ten class folders")
    parser.add_argument("imagenette", type=Path, help="zip file with train/ and val/ of ten class folders")
    parser.add_argument("out", type=Path, help="folder that is made")
    arguments = parser.parse_args()
    if arguments.out.exists():
        parser.error(f"{arguments.out} exists already")
    each = NUMBER // 10
    for part, own in (("train", "train"), ("test", "val")):
        write(photos(arguments.cifar10, part, 0, each), arguments.out / "cifar10" / part)
        write(turned(photos(arguments.cifar10, part, each, each)), arguments.out / "rotations" / part)
        write(photos(arguments.imagenette, own, 0, each), arguments.out / "imagenette" / part)
    for name in TASKS:
        write_task(name, arguments.out / name)


if __name__ == "__main__":
    main()
