"""Fewer training images: some per class, or a share of every class.

A class is put in an order drawn from the seed and its name, and its first images are taken: for one seed, the smaller
subset is part of the larger one, be it counted or a share. Where images have groups (patients, say), a share is one of the
groups, whole but for the last, and images per class come from as many groups as there are.
"""

from collections import Counter
from collections.abc import Callable, Sequence

from svp.data.splits import Split, enumerate_some, shuffled
from svp.errors import InputError


def take_shots(split: Split, class_names: Sequence[str], shots: int, seed: int) -> Split:
    """`shots` images of every class; all of a class that has fewer, which `origin` then tells.

    Args:
        shots: Images per class, 1 or more.
        seed: Seeds the draw.
    Returns:
        Class after class, within a class in the order of `split`.
    Raises:
        InputError: `shots` is below 1.
    """
    if shots < 1:
        raise InputError(f"shots is {shots}, expected 1 or more")
    sizes = zip(class_names, map(len, split.by_class(len(class_names))), strict=True)
    few = [f"{name} ({size})" for name, size in sizes if 0 < size < shots]
    origin = f"{shots} per class of {split.origin}, seed {seed}"
    if few:
        origin += f"; fewer in {len(few)} of {len(class_names)} classes, all taken: {enumerate_some(few)}"
    seen: Counter[tuple[int, str]] = Counter()

    def order(index: int) -> int:
        """The how-manieth image of its group and class this is."""
        if not split.groups:
            return 0
        key = split.labels[index], split.groups[index]
        seen[key] += 1
        return seen[key]

    return _take(split, class_names, lambda images: shots, seed, origin, order)


def take_fraction(split: Split, class_names: Sequence[str], fraction: float, seed: int) -> Split:
    """round(fraction * n) images of a class of n, but at least one.

    Args:
        fraction: Share of the images, above 0 up to 1.
        seed: Seeds the draw.
    Returns:
        Class after class, within a class in the order of `split`.
    Raises:
        InputError: `fraction` is out of range.
    """
    if not 0 < fraction <= 1:
        raise InputError(f"train_fraction is {fraction}, expected 0 < train_fraction <= 1")
    origin = f"{100 * fraction:g}% of {split.origin}, stratified, seed {seed}"
    groups = sorted(set(split.groups))
    rank = dict(zip(groups, shuffled(len(groups), f"subset/{seed}"), strict=True))

    def order(index: int) -> int:
        return rank[split.groups[index]] if split.groups else 0

    return _take(split, class_names, lambda images: max(1, round(fraction * images)), seed, origin, order)


def _take(
    split: Split, class_names: Sequence[str], count: Callable[[int], int], seed: int, origin: str, order: Callable[[int], int]
) -> Split:
    """The first count(n) images of a class of n, in the drawn order, sorted by `order` of the index."""
    taken: list[int] = []
    for name, indices in zip(class_names, split.by_class(len(class_names)), strict=True):
        drawn = [indices[place] for place in shuffled(len(indices), f"subset/{seed}/{name}")]
        ranks = {index: order(index) for index in drawn}
        taken += sorted(sorted(drawn, key=ranks.__getitem__)[: count(len(indices))])
    return split.take(taken, origin)
