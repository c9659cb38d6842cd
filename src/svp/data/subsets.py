"""Fewer training images: some per class, or a share of every class.

A class is put in an order drawn from the seed and its name, and its first images are taken: for one seed, the smaller
subset is part of the larger one, be it counted or a share.
"""

import random
from collections.abc import Callable, Sequence
from pathlib import Path

from svp.data.splits import Split, as_split, enumerate_some, images_by_class


def take_shots(split: Split, class_names: Sequence[str], shots: int, seed: int) -> Split:
    """`shots` images of every class; all of a class that has fewer, which `origin` then tells.

    Args:
        shots: Images per class, 1 or more.
        seed: Of the draw.
    Returns:
        Class after class, within a class in the order of `split`.
    Raises:
        ValueError: `shots` is below 1.
    """
    if shots < 1:
        raise ValueError(f"shots is {shots}, expected 1 or more")
    few = [
        f"{name} ({len(images)})" for name, images in images_by_class(split, class_names).items() if 0 < len(images) < shots
    ]
    origin = f"{shots} per class of {split.origin}, seed {seed}"
    if few:
        origin += f"; fewer in {len(few)} of {len(class_names)} classes, all taken: {enumerate_some(few)}"
    return _take(split, class_names, lambda images: shots, seed, origin)


def take_fraction(split: Split, class_names: Sequence[str], fraction: float, seed: int) -> Split:
    """round(fraction * n) images of a class of n, but at least one.

    Args:
        fraction: Share of the images, above 0 up to 1.
        seed: Of the draw.
    Returns:
        Class after class, within a class in the order of `split`.
    Raises:
        ValueError: `fraction` is out of range.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"train_fraction is {fraction}, expected 0 < train_fraction <= 1")
    origin = f"{100 * fraction:g}% of {split.origin}, stratified, seed {seed}"
    return _take(split, class_names, lambda images: max(1, round(fraction * images)), seed, origin)


def _take(split: Split, class_names: Sequence[str], count: Callable[[int], int], seed: int, origin: str) -> Split:
    """The first count(n) images of the drawn order of a class of n."""
    taken: dict[str, list[Path]] = {}
    for name, images in images_by_class(split, class_names).items():
        order = list(range(len(images)))
        random.Random(f"subset/{seed}/{name}").shuffle(order)
        taken[name] = [images[index] for index in sorted(order[: count(len(images))])]
    return as_split(taken, class_names, origin)
