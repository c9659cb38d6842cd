"""What a data set is to the rest of the package: labelled images in three parts, and how a missing part is split off."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from svp.errors import InputError
from svp.tasks import SINGLE_LABEL, Target, Task


class DataError(InputError):
    """The user's images cannot be used as they are; the message names the path, the finding and the remedy."""


@dataclass(frozen=True)
class Split:
    """Images of one part with their labels, in a fixed order.

    Attributes:
        paths: One per image.
        labels: Index into the class names, one per image.
        origin: Where the part comes from, e.g. "folder test/" or "15% of train/, stratified, seed 0".
        groups: What must not be torn apart (a patient, a track, a site), one per image; empty if nothing is known of that.
        targets: What is to be said of each image, one value per output of the head; empty where that is the label. Where
            there are targets, a label is the stratum that the image is in when images are split.

    Raises:
        ValueError: Paths and labels, groups or targets differ in number.
    """

    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    origin: str
    groups: tuple[str, ...] = ()
    targets: tuple[Target, ...] = ()

    def __post_init__(self) -> None:
        if len(self.paths) != len(self.labels):
            raise ValueError(f"paths ({len(self.paths)}) and labels ({len(self.labels)}) must be equally many")
        if self.groups and len(self.paths) != len(self.groups):
            raise ValueError(f"paths ({len(self.paths)}) and groups ({len(self.groups)}) must be equally many")
        if self.targets and len(self.paths) != len(self.targets):
            raise ValueError(f"paths ({len(self.paths)}) and targets ({len(self.targets)}) must be equally many")

    @classmethod
    def of_classes(
        cls,
        classes: Mapping[str, Sequence[Path]],
        class_names: Sequence[str],
        origin: str,
        groups: Mapping[Path, str] | None = None,
        targets: Mapping[Path, Target] | None = None,
    ) -> Split:
        """Class after class, in the order of `class_names`; a class may have no images."""
        pairs = [(path, label) for label, name in enumerate(class_names) for path in classes.get(name, ())]
        paths, labels = tuple(path for path, _ in pairs), tuple(label for _, label in pairs)
        named = tuple(groups[path] for path in paths) if groups else ()
        return cls(paths, labels, origin, named, tuple(targets[path] for path in paths) if targets else ())

    def __len__(self) -> int:
        return len(self.paths)

    def truth(self, index: int) -> int | Target:
        """What is to be said of an image: its target, or its label where there are none."""
        return self.targets[index] if self.targets else self.labels[index]

    def joined(self, other: Split, origin: str) -> Split:
        """These images, then the other ones."""
        both = all(split.groups or not len(split) for split in (self, other))
        groups = self.groups + other.groups if both else ()
        return Split(self.paths + other.paths, self.labels + other.labels, origin, groups, self.targets + other.targets)

    def take(self, indices: Iterable[int], origin: str | None = None) -> Split:
        """The images at `indices`, in that order.

        Args:
            indices: Positions in this split.
            origin: What is taken; `origin` of this split if None.
        """
        indices = list(indices)
        paths, labels = tuple(self.paths[index] for index in indices), tuple(self.labels[index] for index in indices)
        groups = tuple(self.groups[index] for index in indices) if self.groups else ()
        targets = tuple(self.targets[index] for index in indices) if self.targets else ()
        return Split(paths, labels, self.origin if origin is None else origin, groups, targets)

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
class LeftOut:
    """Something that lies beside the images and is no part of the data.

    Attributes:
        path: The file or folder.
        reason: "other" for what is no image, "hidden" for a hidden folder or file, "litter" for what a system or a program
            leaves behind.
        images: Number of images in it.
    """

    path: Path
    reason: Literal["other", "hidden", "litter"] = "other"
    images: int = 0


def describe_left_out(left_out: Sequence[LeftOut], root: Path) -> list[str]:
    """What is left out in words, a line for each reason."""
    reasons = {
        "other": "{n} ignored, not part of the data: {names}",
        "hidden": "left out because hidden, {images}: {names}; rename what is part of the data",
        "litter": "left out as litter of a system or program, {images}: {names}",
    }
    lines = []
    for reason, text in reasons.items():
        some = [entry for entry in left_out if entry.reason == reason]
        if some:
            paths = [entry.path.relative_to(root) if entry.path.is_relative_to(root) else entry.path for entry in some]
            images = sum(entry.images for entry in some)
            with_images = "1 image" if images == 1 else f"{images:,} images"
            lines.append(text.format(n=len(some), names=enumerate_some(paths, most=5), images=with_images))
    return lines


@dataclass(frozen=True)
class Parts:
    """What a data set brings itself, before anything is split off.

    Attributes:
        root: Folder that all its images lie in, or the table that lists them.
        class_names: Names of the classes, by label.
        splits: "train", and "val" and "test" where it has them.
        paper_train: What the paper's code trains on, where that is not train and val together.
        left_out: Other files and folders beside the images.
        notes: What else to tell the user, a line each.
        grouped_by: What the groups of the splits are, in words, e.g. "column patient"; None if they have none.
        likely_groups: Columns of a table that look like groups and are not used as such: value by image, by column.
        task: What a head is to say of an image.
        outputs: Names of the head's outputs where they are not the classes.
    """

    root: Path
    class_names: tuple[str, ...]
    splits: Mapping[str, Split]
    paper_train: Split | None = None
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    grouped_by: str | None = None
    likely_groups: Mapping[str, Mapping[Path, str]] = field(default_factory=dict)
    task: Task = SINGLE_LABEL
    outputs: tuple[str, ...] = ()

    def show_label(self, split: Split, index: int) -> str:
        """What is true of an image of one of the splits, in words."""
        if split.targets:
            return self.task.show_target(split.targets[index], self.outputs)
        return self.class_names[split.labels[index]]

    @property
    def ignored(self) -> tuple[Path, ...]:
        """Files and folders beside the images that are no images."""
        return tuple(entry.path for entry in self.left_out if entry.reason == "other")


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
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    grouped_by: str | None = None
    task: Task = SINGLE_LABEL
    outputs: tuple[str, ...] = ()

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the head's outputs: the classes, or what else the task says of an image."""
        return self.outputs or self.class_names

    @property
    def ignored(self) -> tuple[Path, ...]:
        """Files and folders beside the images that are no images."""
        return tuple(entry.path for entry in self.left_out if entry.reason == "other")

    @property
    def splits(self) -> dict[str, Split]:
        """The three parts by name: "train", "val", "test"."""
        return {"train": self.train, "val": self.val, "test": self.test}

    def summary(self) -> str:
        """A few lines for the console: sizes, origin of each part, and whatever is odd."""
        parts = self.splits
        total = sum(len(split) for split in parts.values())
        what = f" in {len(self.class_names)} classes" if not self.outputs else f", {self.task.title}"
        lines = [f"{self.name}: {total} images{what} ({enumerate_some(self.output_names)})"]
        lines += [f"  {part:<5} {len(split):>7}  {split.origin}" for part, split in parts.items()]
        for part, split in parts.items():
            absent = absent_from(split, self)
            if absent and len(split):
                lines.append(f"  {part} has no image of {enumerate_some(absent)}")
        if self.grouped_by:
            counts = ", ".join(f"{part} {len(set(split.groups)):,}" for part, split in parts.items())
            lines.append(f"  groups by {self.grouped_by}, each in one part: {counts}")
        lines += [f"  {line}" for line in describe_left_out(self.left_out, self.root)]
        lines += [f"  {note}" for note in self.notes]
        return "\n".join(lines)


def absent_from(split: Split, data: Parts | ImageData) -> list[str]:
    """Classes, or labels, that no image of a split of the data has."""
    if split.targets:
        return data.task.absent(split.targets, data.outputs)
    present = set(split.labels)
    return [name for label, name in enumerate(data.class_names) if label not in present]


def shuffled(length: int, seed: str | int) -> list[int]:
    """The numbers below `length` in an order drawn from `seed`: the same on every machine, in every process."""
    order = list(range(length))
    random.Random(seed).shuffle(order)
    return order


def enumerate_some(names: Sequence[object], most: int = 10) -> str:
    """The names with commas between them, cut after `most`: "a, b and 7 more"."""
    shown = ", ".join(str(name) for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
