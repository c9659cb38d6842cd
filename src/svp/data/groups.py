"""Images that belong together, as those of one patient, track or site: they stay in one part.

A column of a table names the group of each image, or a regular expression that is searched in the file names. Without
either, images of one patient may fall on both sides, and scores are too good.
"""

from __future__ import annotations

import re
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from svp.data.splits import DataError, Parts, Split, enumerate_some

_LIKELY = frozenset(
    (
        *("group", "patient", "subject", "person", "participant", "individual", "donor", "animal", "mouse", "specimen"),
        *("sample", "slide", "case", "study", "exam", "visit", "scan", "series", "session", "sequence", "video", "clip"),
        *("movie", "track", "trajectory", "scene", "shot", "burst", "event", "site", "location", "place", "house", "room"),
        *("building", "hospital", "center", "centre", "camera", "device", "plot", "field", "farm", "plant", "tree"),
        *("station", "area", "region", "tile", "lot", "batch", "identity", "author", "user", "owner", "source"),
    )
)

_NUMBER_WORDS = frozenset(("id", "ids", "no", "nr", "num", "number", "name", "code", "key", "uid", "uuid", "idx", "index"))

_MOST_OVERSIZE = 2.5
"""A part may be this many times as large as asked for, if only so it gets images of all classes."""


_MOST_TRIED = 6
"""Numbers of folds that are tried for a part with images of all classes."""


def looks_like_group(column: str) -> bool:
    """Whether the name of a column is that of a group: ``patient``, ``patient_id``, ``PatientID``, ``site no.``, ..."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[^\W\d_A-Za-z]+", column)
    named = [word for word in (word.lower() for word in words) if word not in _NUMBER_WORDS]
    if not named and words:  # patientid, written as one word
        named = [word.lower() for word in words]
    stems = {re.sub("(ids?|s)$", "", word) for word in named} | set(named)
    return bool(stems & _LIKELY)


def group_by_name(parts: Parts, regex: str) -> Parts:
    """The parts with the groups that a regular expression finds in the names of the images.

    Args:
        regex: Searched in the file's name, or in its path below the root if it holds a slash. Its first bracket is the group;
            without brackets, all that matches is.

    Raises:
        DataError: It is no regular expression, or it does not match every name.
    """
    try:
        pattern = re.compile(regex)
    except re.error as error:
        raise DataError(f"group_regex {regex!r} is no regular expression: {error}.") from error
    root = parts.root if parts.root.is_dir() else parts.root.parent

    def name_of(path: Path) -> str:
        if "/" not in regex:
            return path.name
        return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()

    unmatched: list[str] = []

    def group_of(path: Path) -> str:
        found = pattern.search(name_of(path))
        group = (found[1] if pattern.groups else found[0]) if found else None
        if not group:
            unmatched.append(name_of(path))
        return group or ""

    def grouped(split: Split) -> Split:
        return replace(split, groups=tuple(group_of(path) for path in split.paths))

    splits = {part: grouped(split) for part, split in parts.splits.items()}
    total = sum(map(len, splits.values()))
    if unmatched:
        raise DataError(
            f"{parts.root}: group_regex {regex!r} finds no group in {len(unmatched):,} of {total:,} names, such as "
            f"{enumerate_some(unmatched, 3)}. Every name must match; the first bracket is the group."
        )
    paper_train = grouped(parts.paper_train) if parts.paper_train is not None else None
    return replace(parts, splits=splits, paper_train=paper_train, grouped_by=f"file name ({regex})")


def check_apart(parts: Parts) -> None:
    """Refuse a data set that brings images of one group in two parts.

    Raises:
        DataError: A group is in two parts.
    """
    first: dict[str, str] = {}
    torn: dict[str, str] = {}
    for part, split in parts.splits.items():
        for group in set(split.groups):
            if first.setdefault(group, part) != part:
                torn[group] = f"{group!r} in {first[group]} and {part}"
    if torn:
        some = enumerate_some([torn[group] for group in sorted(torn)], 5)
        raise DataError(
            f"{parts.root}: {len(torn)} groups by {parts.grouped_by} have images in two parts of the data itself: {some}. "
            "Scores would be too good. Move each group into one part; if this is no group, say --group none."
        )


def warn_of_likely(parts: Parts, splits: Mapping[str, Split]) -> list[str]:
    """A warning for each column that looks like a group and whose values fall into two parts."""
    notes = []
    for column, value_of in parts.likely_groups.items():
        where: dict[str, set[str]] = defaultdict(set)
        for part, split in splits.items():
            for path in split.paths:
                if path in value_of:
                    where[value_of[path]].add(part)
        torn = sum(len(among) > 1 for among in where.values())
        if torn:
            notes.append(
                f"warning: the column {column!r} looks like a group, and {torn:,} of its {len(where):,} values have images in "
                f"two parts: scores may be too good; --group {column!r} keeps each in one part, --group none says it is none"
            )
    return notes


def split_grouped(
    root: Path, split: Split, names: Sequence[str], fractions: Sequence[float], seed: int, *, keep_all: bool = True
) -> list[list[int]]:
    """Split off one part per fraction and keep every group in one part, with the classes' shares as equal as that allows.

    A part is a fold of scikit-learn's `StratifiedGroupKFold`. Few groups make parts that are larger than asked for.

    Args:
        names: Names of the parts, for messages.
        keep_all: Leave training images of every class; otherwise as many as the groups allow.
    Returns:
        The indices of the rest, then those of a part per fraction, each in the order given.
    Raises:
        DataError: There are too few groups, or a class would be left without a training image.
    """
    count = len(set(split.groups))
    if count <= len(names):
        raise DataError(
            f"{root}: {count} groups are too few to split off {' and '.join(names)}: every part needs at least one."
        )
    rest, left = list(range(len(split))), 1.0
    parts: list[list[int]] = []
    for place, (name, fraction) in enumerate(zip(names, fractions, strict=True)):
        needed = len(names) - place  # groups that must be left for the parts to come and for training
        fold = _best_fold(split.take(rest), fraction / left, needed, seed, keep_all)
        if fold is None:
            raise DataError(
                f"{root}: {name} cannot be split off by groups, since a class would be left without training images. Give "
                f"{name} as a part of its own, or add groups that hold these classes."
            )
        parts.append([rest[index] for index in fold])
        taken = set(parts[-1])
        rest = [index for index in rest if index not in taken]
        left -= fraction
    return [rest, *parts]


def _best_fold(split: Split, fraction: float, needed: int, seed: int, keep_all: bool) -> list[int] | None:
    """The fold that leaves training images of all classes, has most classes itself, and the size asked for."""
    import numpy as np
    from sklearn.model_selection import StratifiedGroupKFold

    labels = np.asarray(split.labels)
    groups = np.unique(np.asarray(split.groups), return_inverse=True)[1]
    classes, count = len(set(split.labels)), len(set(split.groups))
    most = min(count, int(np.bincount(labels).max()))
    best: tuple[tuple[bool, int, float], list[int]] | None = None
    first = min(max(2, round(1 / fraction)), most)
    for folds in range(first, 1, -1):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a class of fewer images than folds is in some of them only
            cut = StratifiedGroupKFold(folds, shuffle=True, random_state=seed % 2**32).split(labels, labels, groups)
            pairs = list(cut)
        for rest, part in pairs:
            lost = classes - len(set(labels[rest]))
            if not len(part) or len(set(groups[rest])) < needed or (keep_all and lost):
                continue
            share = len(part) / len(labels)
            missing = lost + classes - len(set(labels[part]))
            merit = (share > _MOST_OVERSIZE * fraction, missing, abs(share - fraction))
            if best is None or merit < best[0]:
                best = merit, part.tolist()
        if best is not None and (best[0][1] == 0 or first - folds >= _MOST_TRIED):
            break
    return best[1] if best is not None else None
