"""Every file decoded once before training: those that cannot be are reported by name, and what is odd about the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from svp.data.fingerprints import content_fingerprint
from svp.data.near_copies import look_of
from svp.data.pipeline.decoding import ImageReader, UnreadableImageError
from svp.data.pipeline.threads import in_threads
from svp.data.pipeline.value_ranges import SampleFacts
from svp.data.remembered import Found, Memory
from svp.data.splits import DataError, ImageData, Split, enumerate_some

Result = TypeVar("Result")

MAX_UNREADABLE = 0.05
"""Share of the training images that may be unreadable; more stops the run."""


@dataclass(frozen=True)
class Unreadable:
    """A file that cannot be decoded, and why."""

    path: Path
    reason: str


def decode_all(
    paths: Sequence[Path], decode: Callable[[Path], Result], progress: Callable[[int], object] | None = None
) -> tuple[dict[Path, Result], tuple[Unreadable, ...]]:
    """Decode files in threads: the results by path, and the files that cannot be decoded, both in the order given.

    Args:
        paths: The files.
        decode: Decodes one file.
        progress: Called after each file with the number of files done.
    """

    def attempt(path: Path) -> tuple[Path, Result | Unreadable]:
        try:
            return path, decode(path)
        except UnreadableImageError as error:
            return path, Unreadable(path, error.reason)

    decoded: dict[Path, Result] = {}
    unreadable: list[Unreadable] = []
    for done, (path, result) in enumerate(in_threads(attempt, paths), start=1):
        if isinstance(result, Unreadable):
            unreadable.append(result)
        else:
            decoded[path] = result
        if progress is not None:
            progress(done)
    return decoded, tuple(unreadable)


@dataclass(frozen=True)
class CheckedFiles:
    """What is known of files once all were decoded.

    Attributes:
        unreadable: Those that cannot be decoded, in the order given.
        samples: What the samples are, of those with more than 8 bits per sample.
        notes: What is odd, of those that can be decoded nevertheless.
        contents: What stands for the bytes of the files, see `svp.data.fingerprints.content_fingerprint`.
        looks: What the readable images look like in small, see `svp.data.near_copies.look_of`.
    """

    unreadable: tuple[Unreadable, ...]
    samples: dict[Path, SampleFacts]
    notes: dict[Path, str]
    contents: dict[Path, str] = field(default_factory=dict)
    looks: dict[Path, bytes] = field(default_factory=dict)


def check_files(
    paths: Sequence[Path],
    progress: Callable[[int], object] | None = None,
    max_pixels: int | None = None,
    channels: int = 3,
) -> CheckedFiles:
    """Decode every file completely, in threads.

    What is found of readable files is remembered under `$SVP_HOME/cache` by path, size and time of change, and they are not
    decoded again; this holds for files that are read with three channels.

    Args:
        paths: The files.
        progress: Called after each file with the number of files done.
        max_pixels: Largest image that is decoded, in pixels; Pillow's limit if None.
        channels: What they are to be read with, see `ImageReader`.
    """
    memory = Memory(paths if channels == 3 else [], max_pixels)
    reader = ImageReader(max_pixels=max_pixels, channels=channels)
    new = [path for path in paths if path not in memory.known]

    def check(path: Path) -> Found:
        decoded = reader.decode(path)
        found = Found(decoded.samples, decoded.note, content_fingerprint(path), look_of(decoded.image))
        if channels == 3:
            memory.add(path, found)
        return found

    def tell(done: int) -> None:
        memory.write_now_and_then()
        if progress is not None:
            progress(len(paths) - len(new) + done)

    try:
        if len(new) < len(paths):
            tell(0)  # those that are known
        decoded, unreadable = decode_all(new, check, tell)
    finally:
        memory.write()  # also where it is stopped
    found = memory.known | decoded
    readable = {path: found[path] for path in paths if path in found}
    return CheckedFiles(
        unreadable,
        {path: found.samples for path, found in readable.items() if found.samples is not None},
        {path: found.note for path, found in readable.items() if found.note},
        {path: found.content for path, found in readable.items()},
        {path: found.look for path, found in readable.items()},
    )


def find_unreadable(
    paths: Sequence[Path],
    progress: Callable[[int], object] | None = None,
    max_pixels: int | None = None,
    channels: int = 3,
) -> tuple[Unreadable, ...]:
    """The files that cannot be decoded, see `check_files`."""
    return check_files(paths, progress, max_pixels, channels).unreadable


def drop_unreadable(split: Split, unreadable: Sequence[Unreadable]) -> Split:
    """The split without the unreadable files, in the same order."""
    bad = {entry.path for entry in unreadable}
    return split.where(lambda path: path not in bad)


def _listed(broken: Sequence[Unreadable]) -> str:
    """A few files with what is wrong with them, which is said once where it is the same."""
    if len(broken) > 1 and len({entry.reason for entry in broken}) == 1:
        return f"{broken[0].reason} ({enumerate_some([entry.path for entry in broken], most=3)})"
    return enumerate_some([f"{entry.path} ({entry.reason})" for entry in broken], most=5)


def check_unreadable(data: ImageData, unreadable: Sequence[Unreadable]) -> None:
    """Refuse a data set that is mostly broken, or broken where it hurts.

    Raises:
        DataError: More than `MAX_UNREADABLE` of the training images are unreadable, or a class keeps no training
            image, or a part keeps no image at all.
    """
    bad = {entry.path: entry for entry in unreadable}
    for part, split in {"training": data.train, "validation": data.val, "test": data.test}.items():
        broken = [bad[path] for path in split.paths if path in bad]
        listed = _listed(broken)
        found = f"{data.root}: {len(broken)} of {len(split)} {part} images cannot be read"
        remedy = f"{listed}. Repair or remove these files{', or give another --channels' if '--channels' in listed else ''}."
        kept = set(drop_unreadable(split, broken).labels)
        lost = [data.class_names[label] for label in sorted(set(split.labels) - kept)]
        if part == "training" and len(broken) > MAX_UNREADABLE * len(split):
            raise DataError(f"{found}, more than {MAX_UNREADABLE:.0%}: {remedy}")
        if part == "training" and lost:
            raise DataError(f"{found}, which leaves none of {enumerate_some(lost)}: {remedy}")
        if broken and not kept:
            raise DataError(f"{found}, which leaves none: {remedy}")
