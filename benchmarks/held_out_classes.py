"""Tasks of Tiny ImageNet that a backbone has not seen, and what is left of it to pre-train on.

    python -m benchmarks.held_out_classes tiny-imagenet-32 tiny-tasks [--classes FILE]

40 of the 200 classes are held out, those that held_out_classes.txt lists beside this file (a seed drew them): OUT/task1 to
OUT/task5 have eight each, train/ with 125 images of a class and test/ with the 50 of the data set's val/. OUT/pretraining has
the other 160, its val/ as test/; `benchmarks.pretrain` trains on them. Images are hard links, or copies where there can be
none. The weights that ship with svp have seen all 200 classes: with these, the tasks are not fair.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

TASKS, CLASSES, NUMBER = 5, 8, 1000
SEED = 0


def held_out(classes: Sequence[str], seed: int = SEED) -> list[list[str]]:
    """The classes of every task, each class in one of them at most."""
    order = np.random.default_rng(seed).permutation(len(classes))
    drawn = [sorted(classes)[index] for index in order[: TASKS * CLASSES]]
    return [sorted(drawn[first : first + CLASSES]) for first in range(0, len(drawn), CLASSES)]


LIST = Path(__file__).with_suffix(".txt")
"""The classes of all tasks, a line each, those of the first task first."""


def listed(file: Path) -> list[list[str]]:
    """The classes of every task, from a file of as many lines for each."""
    names = file.read_text(encoding="utf-8").split()
    if len(names) % TASKS or len(set(names)) < len(names):
        raise ValueError(f"{file}: {len(names)} lines, expected different classes, as many for each of {TASKS} tasks")
    size = len(names) // TASKS
    return [names[first : first + size] for first in range(0, len(names), size)]


def write_tasks(source: Path, out: Path, seed: int = SEED, tasks: list[list[str]] | None = None) -> None:
    """Write the tasks and what is left, from SOURCE/train/CLASS and SOURCE/val/CLASS.

    Args:
        source: Tiny ImageNet.
        out: Folder that is made.
        seed: Draws the images of the tasks, and their classes if these are not given.
        tasks: Classes of every task.
    """
    classes = sorted(folder.name for folder in (source / "train").iterdir() if folder.is_dir())
    tasks = held_out(classes, seed) if tasks is None else tasks
    if missing := {name for own in tasks for name in own}.difference(classes):
        raise ValueError(f"{source / 'train'} lacks the classes {', '.join(sorted(missing))}")
    for number, own in enumerate(tasks, start=1):
        for name in own:
            _link(_drawn(source / "train" / name, NUMBER // CLASSES, seed), out / f"task{number}" / "train" / name)
            _link(_files(source / "val" / name), out / f"task{number}" / "test" / name)
    for name in sorted(set(classes).difference(*tasks)):
        for part, source_part in (("train", "train"), ("test", "val")):
            _link(_files(source / source_part / name), out / "pretraining" / part / name)


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _drawn(folder: Path, number: int, seed: int) -> list[Path]:
    files = _files(folder)
    return [files[index] for index in np.random.default_rng(seed).permutation(len(files))[:number]]


def _link(files: Sequence[Path], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        try:
            os.link(file, folder / file.name)
        except OSError:
            shutil.copyfile(file, folder / file.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("tiny_imagenet", type=Path, help="folder with train/ and val/ of class folders")
    parser.add_argument("out", type=Path, help="folder that is made")
    parser.add_argument("--classes", type=Path, default=LIST, help="file of the classes that are held out, a line each")
    arguments = parser.parse_args()
    if arguments.out.exists():
        parser.error(f"{arguments.out} exists already")
    if not (arguments.tiny_imagenet / "val").is_dir():
        parser.error(f"{arguments.tiny_imagenet}: no val/ beside train/, expected the unpacked Tiny ImageNet")
    write_tasks(arguments.tiny_imagenet, arguments.out, tasks=listed(arguments.classes))


if __name__ == "__main__":
    main()
