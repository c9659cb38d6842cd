"""How validation and test images that a data set does not bring are split off its training images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from svp.data.groups import check_apart, split_grouped, warn_of_likely
from svp.data.splits import DataError, ImageData, Parts, Split, enumerate_some, shuffled
from svp.errors import InputError


def complete(name: str, parts: Parts, *, seed: int = 0, val_fraction: float = 0.15, test_fraction: float = 0.15) -> ImageData:
    """Split what is missing off the training part, stratified by class, by seed.

    Per class round(fraction * n) images go to a part, but at least one, and one is left to train on. The split depends
    on seed, class names and the order of the images only.

    Images of one group stay together where the splits have groups: see `svp.data.groups`.

    Args:
        val_fraction: Share of the training images for a missing validation part, above 0.
        test_fraction: Share for a missing test part, above 0; less than 1 together.

    Raises:
        DataError: A class has too few images to be split, or a group is in two parts.
        InputError: A fraction is out of range.
    """
    fractions = {"val": val_fraction, "test": test_fraction}
    for part, fraction in fractions.items():
        if not 0 < fraction < 1:
            raise InputError(f"{part}_fraction (={fraction}) must be above 0 and below 1")
    if val_fraction + test_fraction >= 1:
        raise InputError(f"val_fraction + test_fraction (={val_fraction + test_fraction:g}) must be below 1")
    splits = dict(parts.splits)
    missing = [part for part in fractions if part not in splits]
    check_apart(parts)
    if missing:
        train = splits["train"]
        shares = [fractions[part] for part in missing]
        how = "stratified" if not parts.outputs else f"stratified by {parts.task.strata}"
        if train.groups:
            rest, *split_off = split_grouped(parts.root, train, missing, shares, seed, keep_all=not parts.outputs)
            how += f", by {parts.grouped_by}"
        else:
            _check_enough(parts, missing)
            rest, *split_off = split_stratified(train, parts.class_names, shares, seed)
        splits["train"] = train.take(rest, f"rest of {train.origin}")
        for part, indices in zip(missing, split_off, strict=True):
            share = f"{100 * len(indices) / len(train):.3g}%" if train.groups else f"{100 * fractions[part]:g}%"
            splits[part] = train.take(indices, f"{share} of {train.origin}, {how}, seed {seed}")
    return ImageData(
        name,
        parts.root,
        parts.class_names,
        **splits,
        paper_train=parts.paper_train,
        left_out=parts.left_out,
        notes=(*parts.notes, *warn_of_likely(parts, splits)),
        grouped_by=parts.grouped_by,
        task=parts.task,
        outputs=parts.outputs,
    )


def _check_enough(parts: Parts, missing: Sequence[str]) -> None:
    needed = len(missing) + 1
    classes = dict(zip(parts.class_names, parts.splits["train"].by_class(len(parts.class_names)), strict=True))
    few = [f"{name} ({len(images)})" for name, images in classes.items() if len(images) < needed]
    if few and parts.outputs:
        raise DataError(
            f"{parts.root}: {len(parts.splits['train'])} training images are too few to split off {' and '.join(missing)}."
        )
    if few:
        parts_missing = " and ".join(missing)
        raise DataError(
            f"{parts.root}: {len(few)} of {len(classes)} classes have fewer than {needed} training images, too few to "
            f"split off {parts_missing}: {enumerate_some(few)}. Add images (better dozens per class), remove the class, or "
            f"give {parts_missing} as folders of their own beside train/, or in a table by its split column."
        )


def split_stratified(split: Split, class_names: Sequence[str], fractions: Sequence[float], seed: int) -> list[list[int]]:
    """Split every class into what is left and one part per fraction, at random by seed and class name.

    A part gets round(fraction * n) of a class of n, but at least one, as does the rest. A class needs one image more than
    there are fractions.

    Returns:
        The indices of the rest, then those of a part per fraction: class after class, within a class in the order given.
    """
    parts: list[list[int]] = [[] for _ in range(len(fractions) + 1)]
    for name, indices in zip(class_names, split.by_class(len(class_names)), strict=True):
        sizes = [max(1, round(fraction * len(indices))) for fraction in fractions]
        while sum(sizes) >= len(indices):
            sizes[sizes.index(max(sizes))] -= 1
        drawn = iter(shuffled(len(indices), f"{seed}/{name}"))
        for part, size in zip(parts, [len(indices) - sum(sizes), *sizes], strict=True):
            part += [indices[place] for place in sorted(islice(drawn, size))]
    return parts
