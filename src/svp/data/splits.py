"""What a data set is to the rest of the package: labelled images in three parts, and how a missing part is split off."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True)
class Parts:
    """What a data set brings itself, before anything is split off.

    Attributes:
        root: Folder that all its images lie in, or the table that lists them.
        class_names: By label.
        splits: "train", and "val" and "test" where it has them.
        paper_train: What the paper's code trains on, where that is not train and val together.
        ignored: What the folder holds besides.
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

    def summary(self) -> str:
        """A few lines for the console: sizes, origin of each part, and whatever is odd."""
        parts = {"train": self.train, "val": self.val, "test": self.test}
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
        ValueError: A fraction is out of range.
    """
    fractions = {"val": val_fraction, "test": test_fraction}
    for part, fraction in fractions.items():
        if not 0 < fraction < 1:
            raise ValueError(f"{part}_fraction (={fraction}) must be above 0 and below 1")
    if val_fraction + test_fraction >= 1:
        raise ValueError(f"val_fraction + test_fraction (={val_fraction + test_fraction:g}) must be below 1")
    splits = dict(parts.splits)
    missing = [part for part in fractions if part not in splits]
    if missing:
        classes = images_by_class(splits["train"], parts.class_names)
        _check_enough(parts.root, classes, missing)
        whole = splits["train"].origin
        rest, *split_off = split_stratified(classes, [fractions[part] for part in missing], seed)
        splits["train"] = as_split(rest, parts.class_names, f"rest of {whole}")
        for part, images in zip(missing, split_off, strict=True):
            origin = f"{100 * fractions[part]:g}% of {whole}, stratified, seed {seed}"
            splits[part] = as_split(images, parts.class_names, origin)
    return ImageData(
        name, parts.root, parts.class_names, **splits, paper_train=parts.paper_train, ignored=parts.ignored, notes=parts.notes
    )


def _check_enough(root: Path, classes: Mapping[str, Sequence[Path]], missing: Sequence[str]) -> None:
    needed = len(missing) + 1
    few = [f"{name} ({len(images)})" for name, images in classes.items() if len(images) < needed]
    if few:
        parts = " and ".join(missing)
        raise DataError(
            f"{root}: {len(few)} of {len(classes)} classes have fewer than {needed} training images, too few to split off "
            f"{parts}: {enumerate_some(few)}. Add images (better dozens per class), remove the class, or give "
            f"{parts} as folders of their own beside train/, or in a table by its split column."
        )


def images_by_class(split: Split, class_names: Sequence[str]) -> dict[str, list[Path]]:
    """Paths by class name, in the order of the split; classes without images too."""
    classes: dict[str, list[Path]] = {name: [] for name in class_names}
    for path, label in zip(split.paths, split.labels, strict=True):
        classes[class_names[label]].append(path)
    return classes


def as_split(classes: Mapping[str, Sequence[Path]], class_names: Sequence[str], origin: str) -> Split:
    """The inverse of `images_by_class`: class after class."""
    pairs = [(path, label) for label, name in enumerate(class_names) for path in classes.get(name, ())]
    return Split(tuple(path for path, _ in pairs), tuple(label for _, label in pairs), origin)


def split_stratified(
    classes: Mapping[str, Sequence[Path]], fractions: Sequence[float], seed: int
) -> list[dict[str, list[Path]]]:
    """Split every class into what is left and one part per fraction, at random by seed and class name.

    A part gets round(fraction * n) of a class of n, but at least one, as does the rest.

    Args:
        classes: Images by class, at least len(fractions) + 1 each; their order matters, that of the classes does not.
    Returns:
        The rest, then a part per fraction; all in the order given.
    """
    parts: list[dict[str, list[Path]]] = [{} for _ in range(len(fractions) + 1)]
    for name, paths in classes.items():
        sizes = [max(1, round(fraction * len(paths))) for fraction in fractions]
        while sum(sizes) >= len(paths):
            sizes[sizes.index(max(sizes))] -= 1
        sizes.insert(0, len(paths) - sum(sizes))
        order = list(range(len(paths)))
        random.Random(f"{seed}/{name}").shuffle(order)
        start = 0
        for part, size in zip(parts, sizes, strict=True):
            part[name] = [paths[index] for index in sorted(order[start : start + size])]
            start += size
    return parts


def enumerate_some(names: Sequence[object], most: int = 10) -> str:
    """The names with commas between them, cut after `most`: "a, b and 7 more"."""
    shown = ", ".join(str(name) for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
