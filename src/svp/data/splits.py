"""What a data set is to the rest of the package: labelled images in three parts, and how a missing part is split off."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from svp.errors import InputError


class DataError(InputError):
    """The user's images cannot be used as they are; the message names the path, the finding and the remedy."""


@dataclass(frozen=True)
class Split:
    """Images of one part with their labels, in a fixed order.

    Attributes:
        paths: One per image.
        labels: Index into the class names, one per image.
        origin: Where the part comes from, e.g. "folder test/" or "15% of train/, stratified, seed 0".

    Raises:
        ValueError: Paths and labels differ in number.
    """

    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    origin: str

    def __post_init__(self) -> None:
        if len(self.paths) != len(self.labels):
            raise ValueError(f"paths ({len(self.paths)}) and labels ({len(self.labels)}) must be equally many")

    @classmethod
    def of_classes(cls, classes: Mapping[str, Sequence[Path]], class_names: Sequence[str], origin: str) -> Split:
        """Class after class, in the order of `class_names`; a class may have no images."""
        pairs = [(path, label) for label, name in enumerate(class_names) for path in classes.get(name, ())]
        return cls(tuple(path for path, _ in pairs), tuple(label for _, label in pairs), origin)

    def __len__(self) -> int:
        return len(self.paths)

    def joined(self, other: Split, origin: str) -> Split:
        """These images, then the other ones."""
        return Split(self.paths + other.paths, self.labels + other.labels, origin)

    def take(self, indices: Iterable[int], origin: str | None = None) -> Split:
        """The images at `indices`, in that order.

        Args:
            indices: Positions in this split.
            origin: What is taken; `origin` of this split if None.
        """
        indices = list(indices)
        paths, labels = tuple(self.paths[index] for index in indices), tuple(self.labels[index] for index in indices)
        return Split(paths, labels, self.origin if origin is None else origin)

    def where(self, keep: Callable[[Path], bool], origin: str | None = None) -> Split:
        """The images whose path `keep` accepts, in the same order; for `origin` see `take`."""
        return self.take((index for index, path in enumerate(self.paths) if keep(path)), origin)

    def by_class(self, classes: int) -> list[list[int]]:
        """The indices of the images of each of so many classes, in the order of the split."""
        indices: list[list[int]] = [[] for _ in range(classes)]
        for index, label in enumerate(self.labels):
            indices[label].append(index)
        return indices


@dataclass(frozen=True)
class Parts:
    """What a data set brings itself, before anything is split off.

    Attributes:
        root: Folder that all its images lie in, or the table that lists them.
        class_names: Names of the classes, by label.
        splits: "train", and "val" and "test" where it has them.
        paper_train: What the paper's code trains on, where that is not train and val together.
        ignored: Other files and folders beside the images.
        notes: What else to tell the user, a line each.
    """

    root: Path
    class_names: tuple[str, ...]
    splits: Mapping[str, Split]
    paper_train: Split | None = None
    ignored: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImageData:
    """A data set in three disjoint parts, ready to train on. For the other attributes see `Parts`."""

    name: str
    root: Path
    class_names: tuple[str, ...]
    train: Split
    val: Split
    test: Split
    paper_train: Split | None = None
    ignored: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def splits(self) -> dict[str, Split]:
        """The three parts by name: "train", "val", "test"."""
        return {"train": self.train, "val": self.val, "test": self.test}

    def summary(self) -> str:
        """A few lines for the console: sizes, origin of each part, and whatever is odd."""
        parts = self.splits
        total = sum(len(split) for split in parts.values())
        lines = [f"{self.name}: {total} images in {len(self.class_names)} classes ({enumerate_some(self.class_names)})"]
        lines += [f"  {part:<5} {len(split):>7}  {split.origin}" for part, split in parts.items()]
        for part, split in parts.items():
            present = set(split.labels)
            absent = [name for label, name in enumerate(self.class_names) if label not in present]
            if absent and present:
                lines.append(f"  {part} has no image of {enumerate_some(absent)}")
        if self.ignored:
            names = [path.relative_to(self.root) for path in self.ignored]
            lines.append(f"  {len(names)} ignored, not part of the data: {enumerate_some(names, most=5)}")
        lines += [f"  {note}" for note in self.notes]
        return "\n".join(lines)


def complete(name: str, parts: Parts, *, seed: int = 0, val_fraction: float = 0.15, test_fraction: float = 0.15) -> ImageData:
    """Split what is missing off the training part, stratified by class, by seed.

    Per class round(fraction * n) images go to a part, but at least one, and one is left to train on. The split depends
    on seed, class names and the order of the images only.

    Args:
        val_fraction: Share of the training images for a missing validation part, above 0.
        test_fraction: Share for a missing test part, above 0; less than 1 together.

    Raises:
        DataError: A class has too few images to be split.
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
    if missing:
        train = splits["train"]
        _check_enough(parts, missing)
        rest, *split_off = split_stratified(train, parts.class_names, [fractions[part] for part in missing], seed)
        splits["train"] = train.take(rest, f"rest of {train.origin}")
        for part, indices in zip(missing, split_off, strict=True):
            splits[part] = train.take(indices, f"{100 * fractions[part]:g}% of {train.origin}, stratified, seed {seed}")
    return ImageData(
        name, parts.root, parts.class_names, **splits, paper_train=parts.paper_train, ignored=parts.ignored, notes=parts.notes
    )


def _check_enough(parts: Parts, missing: Sequence[str]) -> None:
    needed = len(missing) + 1
    classes = dict(zip(parts.class_names, parts.splits["train"].by_class(len(parts.class_names)), strict=True))
    few = [f"{name} ({len(images)})" for name, images in classes.items() if len(images) < needed]
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


def shuffled(length: int, seed: str | int) -> list[int]:
    """The numbers below `length` in an order drawn from `seed`: the same on every machine, in every process."""
    order = list(range(length))
    random.Random(seed).shuffle(order)
    return order


def enumerate_some(names: Sequence[object], most: int = 10) -> str:
    """The names with commas between them, cut after `most`: "a, b and 7 more"."""
    shown = ", ".join(str(name) for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
