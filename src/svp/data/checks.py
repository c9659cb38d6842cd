"""What is wrong or odd with a data set, found before a model sees it: what `svp data check` reports."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

from svp.data.copies import Copies, find_copies, find_copies_by_look
from svp.data.facts import ImageFacts, read_all_facts
from svp.data.named.catalog import DatasetInfo, NamedSource
from svp.data.opening import find_source, open_parts
from svp.data.pipeline.value_ranges import describe_samples
from svp.data.remembered import Found, Memory
from svp.data.splits import DataError, ImageData, Parts, Split, absent_from, enumerate_some
from svp.data.splitting import complete
from svp.data.unreadable import Unreadable, check_unreadable
from svp.errors import InputError
from svp.settings import TaskChoice

Level = Literal["error", "warning", "info"]

IMBALANCE = 10.0
"""From this many times more training images in the largest class than in the smallest, there is a warning."""

MODES = {
    "RGB": "RGB",
    "L": "gray",
    "1": "black and white",
    "LA": "gray with transparency",
    "RGBA": "RGB with transparency",
    "P": "palette",
    "PA": "palette with transparency",
    "CMYK": "CMYK",
    "I;16": "16-bit gray",
    "I;16B": "16-bit gray",
    "I": "32-bit gray",
    "F": "floating-point gray",
}
"""What Pillow's modes are called here; others keep their name."""


@dataclass(frozen=True)
class Finding:
    """Something to know about a data set.

    Attributes:
        level: "error": scores or the run itself would be wrong; "warning": likely not as meant; "info": good to know.
        code: Names the kind of finding, for programs.
        message: For people.
        files: All files concerned; copies of one image stand together.
    """

    level: Level
    code: str
    message: str
    files: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Range:
    """Least, median and greatest of a number per image."""

    least: float
    median: float
    greatest: float


@dataclass(frozen=True)
class Report:
    """All that `check_data` found.

    Attributes:
        name: Name of the data set.
        root: Folder that all images lie in, or the table that lists them.
        class_names: Names of the classes, by label; of what images are stratified by where the task has no classes.
        said: What a head is to say of an image, and of what, in words.
        splits: The three parts that a run would use; those that the data set brings where it cannot be split.
        unreadable: Images that cannot be decoded.
        width, height: Pixels, upright.
        aspect: Width / height.
        modes: Number of images by Pillow's mode.
        copies: Images that are there more than once.
        ignored: Files that are no part of the data.
        findings: Errors first.
    """

    name: str
    root: Path
    class_names: tuple[str, ...]
    said: str
    splits: Mapping[str, Split]
    unreadable: tuple[Unreadable, ...]
    width: Range | None
    height: Range | None
    aspect: Range | None
    modes: Mapping[str, int]
    copies: tuple[Copies, ...]
    ignored: tuple[Path, ...]
    findings: tuple[Finding, ...]

    @property
    def has_errors(self) -> bool:
        """Whether there is a finding of level "error"."""
        return any(finding.level == "error" for finding in self.findings)

    @property
    def total(self) -> int:
        """Number of images in all parts."""
        return sum(len(split) for split in self.splits.values())

    def counts(self) -> dict[str, dict[str, int]]:
        """Number of images by class, by part."""
        numbers = {part: Counter(split.labels) for part, split in self.splits.items()}
        return {name: {part: numbers[part][label] for part in self.splits} for label, name in enumerate(self.class_names)}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as ``svp data check --json`` prints them."""
        ranges = {"width": self.width, "height": self.height, "aspect": self.aspect}
        return {
            "name": self.name,
            "root": str(self.root),
            "ok": not self.has_errors,
            "classes": list(self.class_names),
            "images": {part: len(split) for part, split in self.splits.items()},
            "origin": {part: split.origin for part, split in self.splits.items()},
            "counts": self.counts(),
            "sizes": {
                name: {"min": values.least, "median": values.median, "max": values.greatest} if values else None
                for name, values in ranges.items()
            },
            "modes": dict(self.modes),
            "ignored": [str(path) for path in self.ignored],
            "unreadable": [{"path": str(image.path), "reason": image.reason} for image in self.unreadable],
            "copies": [
                {
                    "files": [str(path) for path in copies.files],
                    "classes": list(copies.classes),
                    "parts": list(copies.parts),
                    "same": "look" if copies.nearly else "bytes" if copies.same_bytes else "pixels",
                }
                for copies in self.copies
            ],
            "findings": [asdict(finding) | {"files": [str(path) for path in finding.files]} for finding in self.findings],
        }


def check_data(
    data: str,
    data_root: str | Path | None = None,
    *,
    img_size: int = 224,
    group: str | None = None,
    group_regex: str | None = None,
    archive_encoding: str | None = None,
    task: TaskChoice = "auto",
    label: str | None = None,
    max_pixels: int | None = None,
    channels: int = 3,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Decode every image of a data set once and report what is wrong or odd.

    Copies are looked for between the parts that the data set brings itself: those in two parts are a leak. Where
    validation or test images are drawn from the training part, its copies may fall on both sides, which is a warning.

    Args:
        data: What ``svp train --data`` takes.
        data_root: Where named data sets lie; ``$SVP_HOME/data`` if None.
        img_size: Side of the model's input in pixels; smaller images are noted.
        group: Column of a table that says which images stay in one part; see `svp.data.open_data`.
        group_regex: Finds the same in the names of the files.
        archive_encoding: Encoding of the names in an archive that are not UTF-8; guessed if None.
        task: What a table's labels are; see `svp.data.open_data`.
        label: Columns of a table that hold them.
        max_pixels: Largest image that is read, in pixels; Pillow's limit if None.
        channels: Channels that images are read with, as in training.
        progress: Called with (images done, images in all).

    Raises:
        DataError: The data cannot be opened at all.
        InputError: `img_size` is below 1.
    """
    if img_size < 1:
        raise InputError(f"img_size is {img_size}, expected 1 or more")
    if channels < 1:
        raise InputError(f"channels is {channels}, expected 1 or more")
    source = find_source(data, data_root, group, archive_encoding, task, label)
    parts = open_parts(source, 0, group, group_regex)
    paths = list(dict.fromkeys(path for split in parts.splits.values() for path in split.paths))
    facts, unreadable = read_all_facts(
        paths, None if progress is None else lambda done: progress(done, len(paths)), max_pixels, channels
    )
    if channels == 3:  # a run need not decode them again
        memory = Memory((), max_pixels)
        for path, image in facts.items():
            memory.add(path, Found(image.samples, image.note, image.content, image.look))
        memory.write()
    findings: list[Finding] = []
    whole: ImageData | None = None
    try:
        whole = complete(source.name, parts)
        splits: Mapping[str, Split] = whole.splits
        findings += _unusable(whole, unreadable)
    except DataError as error:
        splits = parts.splits
        findings.append(Finding("error", "not-splittable", str(error)))
    copies = (*find_copies(parts, facts), *find_copies_by_look(parts, facts))
    findings += _catalog_mismatch(source.info, parts) if isinstance(source, NamedSource) else []
    findings += _unreadable(unreadable, len(paths))
    findings += _repeated(copies, drawn_from_train=not {"val", "test"} <= parts.splits.keys())
    findings += _classes(parts, splits)
    findings += _images(facts, img_size)
    if parts.ignored:
        message = f"{_number(len(parts.ignored), 'file')} ignored, not part of the data"
        findings.append(Finding("info", "ignored", message, parts.ignored))
    findings += _left_out(parts)
    notes = whole.notes if whole is not None else parts.notes
    findings += [Finding(_note_level(note), "note", note.removeprefix("warning: ")) for note in notes]
    levels = ("error", "warning", "info")
    sizes = facts.values()
    return Report(
        name=source.name,
        root=parts.root,
        class_names=parts.class_names,
        said=f"{parts.task.title}: {enumerate_some(parts.outputs)}"
        if parts.outputs
        else f"{len(parts.class_names):,} classes",
        splits=splits,
        unreadable=unreadable,
        width=_range([image.width for image in sizes]),
        height=_range([image.height for image in sizes]),
        aspect=_range([image.width / image.height for image in sizes]),
        modes=dict(Counter(image.mode for image in sizes).most_common()),
        copies=copies,
        ignored=parts.ignored,
        findings=tuple(sorted(findings, key=lambda finding: levels.index(finding.level))),
    )


def _note_level(note: str) -> Level:
    return "warning" if note.startswith("warning: ") else "info"


def _left_out(parts: Parts) -> list[Finding]:
    kinds: dict[Literal["hidden", "litter"], tuple[Level, str]] = {
        "hidden": ("warning", "hidden, so left out"),
        "litter": ("info", "litter of a system or program, left out"),
    }
    found = []
    for reason, (level, what) in kinds.items():
        entries = [entry for entry in parts.left_out if entry.reason == reason]
        if entries:
            images = _number(sum(entry.images for entry in entries), "image")
            message = f"{images} in {_number(len(entries), 'place')}: {what}"
            found.append(Finding(level, reason, message, tuple(entry.path for entry in entries)))
    return found


def _unusable(data: ImageData, unreadable: Sequence[Unreadable]) -> list[Finding]:
    try:
        check_unreadable(data, unreadable)
    except DataError as error:
        return [Finding("error", "unusable", str(error))]
    return []


def _catalog_mismatch(row: DatasetInfo, parts: Parts) -> list[Finding]:
    found: list[Finding] = []
    if len(parts.class_names) != row.classes:
        message = f"{_number(len(parts.class_names), 'class', 'classes')}, the catalog says {row.classes:,}"
        found.append(Finding("error", "catalogue-classes", message))
    # a validation part is not always official: then train and val count together
    has_val = "val" in parts.splits and "val" in row.sizes
    groups = [("train",), ("val",), ("test",)] if has_val else [("train", "val"), ("test",)]
    for group in groups:
        images = sum(len(parts.splits[part]) for part in group if part in parts.splits)
        published = sum(row.sizes.get(part, 0) for part in group)
        if images != published:
            present = [part for part in group if part in parts.splits or part in row.sizes]
            message = f"{' and '.join(present)}: {_number(images, 'image')}, the catalog says {published:,}"
            found.append(Finding("error", "catalogue-size", message))
    return found


def _unreadable(unreadable: Sequence[Unreadable], total: int) -> list[Finding]:
    if not unreadable:
        return []
    message = f"{len(unreadable):,} of {_number(total, 'image')} cannot be read; repair or remove them"
    return [Finding("error", "unreadable", message, tuple(image.path for image in unreadable))]


def _repeated(copies: Sequence[Copies], drawn_from_train: bool) -> list[Finding]:
    codes = ("leak", "near-leak", "label-conflict", "copies", "near-copies")
    by_code: dict[str, list[Copies]] = {code: [] for code in codes}
    for entry in copies:
        by_code[entry.code].append(entry)
    may_leak = "; validation or test images are drawn from train, so copies may fall on both sides" if drawn_from_train else ""
    kinds: dict[str, tuple[Level, str, str]] = {
        "leak": ("error", "in two parts, so scores are too good: keep each in one part", ""),
        "near-leak": ("error", "in two parts, so scores are too good: keep all that look the same in one part", ""),
        "label-conflict": ("warning", "in two classes of one part: one of the labels is wrong", may_leak),
        "copies": ("warning" if may_leak else "info", "more than once in one class", may_leak),
        "near-copies": ("warning" if may_leak else "info", "more than once in one part", may_leak),
    }
    found = []
    for code, (level, what, remark) in kinds.items():
        if entries := by_code[code]:
            pixels = sum(not entry.same_bytes for entry in entries)
            how = f" ({pixels:,} by equal pixels in unequal files)" if pixels else " (by equal files)"
            how = " (by their look, at another size or quality)" if code.startswith("near") else how
            verb = "is" if len(entries) == 1 else "are"
            files = tuple(path for entry in entries for path in entry.files)
            found.append(Finding(level, code, f"{_number(len(entries), 'image')} {verb} {what}{how}{remark}", files))
    return found


def _classes(parts: Parts, splits: Mapping[str, Split]) -> list[Finding]:
    found: list[Finding] = []
    for part, split in splits.items():
        absent = absent_from(split, parts)
        if absent:
            one, many = ("label", "labels") if parts.outputs else ("class", "classes")
            what = f"no image of {_number(len(absent), one, many)}: {enumerate_some(absent)}"
            found.append(Finding("warning", "class-absent", f"{part} has {what}"))
    if parts.outputs:
        return found
    by_size = Counter(parts.splits["train"].labels).most_common()
    (most, n_most), (fewest, n_fewest) = by_size[0], by_size[-1]
    if n_most >= IMBALANCE * n_fewest:
        names = parts.class_names
        message = (
            f"{n_most / n_fewest:.1f} times as many training images of {names[most]} ({n_most:,}) as of {names[fewest]} "
            f"({n_fewest:,}): top-1 hides how the small classes do, look at the accuracy per class"
        )
        found.append(Finding("warning", "imbalance", message))
    return found


def _images(facts: Mapping[Path, ImageFacts], img_size: int) -> list[Finding]:
    found: list[Finding] = []
    small = tuple(path for path, image in facts.items() if min(image.width, image.height) < img_size)
    if small:
        message = f"{len(small):,} of {_number(len(facts), 'image')} smaller than {img_size} pixels on a side, to be enlarged"
        found.append(Finding("info", "small", message, small))
    converted = tuple(path for path, image in facts.items() if image.mode != "RGB")
    if converted:
        kinds = Counter(MODES.get(facts[path].mode, facts[path].mode) for path in converted)
        listed = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
        message = f"{len(converted):,} of {_number(len(facts), 'image')} not plain RGB, to be converted: {listed}"
        found.append(Finding("info", "converted", message, converted))
    if samples := {path: image.samples for path, image in facts.items() if image.samples is not None}:
        summary = describe_samples(samples)
        low, high = summary.value_range
        message = f"{summary.text}; training takes {low:g} as black and {high:g} as white, or what --value-range LOW HIGH says"
        found.append(Finding("warning" if summary.mixed else "info", "value-range", message, tuple(samples)))
    for note in sorted({image.note for image in facts.values() if image.note}):
        noted = tuple(path for path, image in facts.items() if image.note == note)
        found.append(Finding("info", "read-anyway", f"{_number(len(noted), 'file')} read nevertheless: {note}", noted))
    return found


def _range(values: Sequence[float]) -> Range | None:
    return Range(min(values), median(values), max(values)) if values else None


def _number(count: int, one: str, many: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"
