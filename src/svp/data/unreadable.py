"""Every file decoded once before training: those that cannot be are reported by name, and what is odd about the others."""

from __future__ import annotations

import contextlib
import json
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import PIL

from svp.data.fingerprints import content_fingerprint, fingerprint, state_text
from svp.data.near_copies import look_of
from svp.data.pipeline.decoding import ImageReader, UnreadableImageError
from svp.data.pipeline.threads import in_threads
from svp.data.pipeline.value_ranges import SampleFacts
from svp.data.splits import DataError, ImageData, Split, enumerate_some
from svp.paths import home, write_atomically

Result = TypeVar("Result")

MAX_UNREADABLE = 0.05
"""Share of the training images that may be unreadable; more stops the run."""


_SECONDS_BETWEEN = 30.0
"""Seconds of checking after which what was found is kept."""


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


class Found(Protocol):
    """What is told of a decoded file, beside its pixels; see `svp.data.facts.ImageFacts`."""

    @property
    def samples(self) -> SampleFacts | None:
        """What its samples are, if they have more than 8 bits."""

    @property
    def note(self) -> str:
        """What is odd about it, in words."""

    @property
    def content(self) -> str:
        """What stands for its bytes."""

    @property
    def look(self) -> bytes:
        """What it looks like in small."""


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
    paths: Sequence[Path], progress: Callable[[int], object] | None = None, max_pixels: int | None = None
) -> CheckedFiles:
    """Decode every file completely, in threads.

    What is found of readable files is remembered under `$SVP_HOME/cache` by path, size and time of change, and they are not
    decoded again.

    Args:
        paths: The files.
        progress: Called after each file with the number of files done.
        max_pixels: Largest image that is decoded, in pixels; Pillow's limit if None.
    """
    memory, reader = _Memory(), ImageReader(max_pixels=max_pixels)
    entries = {path: _entry(path, max_pixels) for path in paths}
    new = [path for path in paths if entries[path] not in memory.known]

    def check(path: Path) -> _Remembered:
        decoded = reader.decode(path)
        return _Remembered(decoded.samples, decoded.note, content_fingerprint(path), look_of(decoded.image))

    def remember(path: Path) -> _Remembered:
        memory.add(entries[path], found := check(path))
        return found

    def tell(done: int) -> None:
        memory.write_now_and_then()
        if progress is not None:
            progress(len(paths) - len(new) + done)

    try:
        if len(new) < len(paths):
            tell(0)  # those that are known
        decoded, unreadable = decode_all(new, remember, tell)
    finally:
        memory.write()  # also where it is stopped
    seen = {path: memory.known[entry] for path, entry in entries.items() if entry in memory.known}
    readable = {path: decoded[path] if path in decoded else seen[path] for path in paths if path in decoded or path in seen}
    return CheckedFiles(
        unreadable,
        {path: found.samples for path, found in readable.items() if found.samples is not None},
        {path: found.note for path, found in readable.items() if found.note},
        {path: found.content for path, found in readable.items()},
        {path: found.look for path, found in readable.items()},
    )


def find_unreadable(
    paths: Sequence[Path], progress: Callable[[int], object] | None = None, max_pixels: int | None = None
) -> tuple[Unreadable, ...]:
    """The files that cannot be decoded, see `check_files`."""
    return check_files(paths, progress, max_pixels).unreadable


def remember_readable(found: Mapping[Path, Found], max_pixels: int | None = None) -> None:
    """Spare `check_files` files that were just decoded completely."""
    _write_cache(_read_cache() | {_entry(path, max_pixels): _Remembered.of(facts) for path, facts in found.items()})


def drop_unreadable(split: Split, unreadable: Sequence[Unreadable]) -> Split:
    """The split without the unreadable files, in the same order."""
    bad = {entry.path for entry in unreadable}
    return split.where(lambda path: path not in bad)


def check_unreadable(data: ImageData, unreadable: Sequence[Unreadable]) -> None:
    """Refuse a data set that is mostly broken, or broken where it hurts.

    Raises:
        DataError: More than `MAX_UNREADABLE` of the training images are unreadable, or a class keeps no training
            image, or a part keeps no image at all.
    """
    bad = {entry.path: entry for entry in unreadable}
    for part, split in {"training": data.train, "validation": data.val, "test": data.test}.items():
        broken = [bad[path] for path in split.paths if path in bad]
        listed = enumerate_some([f"{entry.path} ({entry.reason})" for entry in broken], most=5)
        found = f"{data.root}: {len(broken)} of {len(split)} {part} images cannot be read"
        remedy = f"{listed}. Repair or remove these files."
        kept = set(drop_unreadable(split, broken).labels)
        lost = [data.class_names[label] for label in sorted(set(split.labels) - kept)]
        if part == "training" and len(broken) > MAX_UNREADABLE * len(split):
            raise DataError(f"{found}, more than {MAX_UNREADABLE:.0%}: {remedy}")
        if part == "training" and lost:
            raise DataError(f"{found}, which leaves none of {enumerate_some(lost)}: {remedy}")
        if broken and not kept:
            raise DataError(f"{found}, which leaves none: {remedy}")


@dataclass(frozen=True)
class _Remembered:
    samples: SampleFacts | None = None
    note: str = ""
    content: str = ""
    look: bytes = b""

    @classmethod
    def of(cls, found: Found) -> _Remembered:
        return cls(found.samples, found.note, found.content, found.look)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> _Remembered:
        samples = values.get("samples")
        look = b64decode(values.get("look", ""))
        return cls(None if samples is None else SampleFacts(**samples), str(values.get("note", "")), values["content"], look)

    def to_dict(self) -> dict[str, Any]:
        """Only what is odd, as most files are not."""
        values: dict[str, Any] = {"note": self.note, "content": self.content, "look": b64encode(self.look).decode()}
        if self.samples is not None:
            values["samples"] = asdict(self.samples)
        return {name: value for name, value in values.items() if value}


class _Memory:
    """What earlier checks found, and what this one finds; written whole at the end, and now and then before."""

    def __init__(self) -> None:
        self.known = _read_cache()
        self._new: dict[str, _Remembered] = {}
        self._next = time.monotonic() + _SECONDS_BETWEEN

    def add(self, entry: str, found: _Remembered) -> None:
        """Called from several threads."""
        self._new[entry] = found

    def write_now_and_then(self) -> None:
        """Write if that was long ago, as measured by the time that writing takes."""
        if (started := time.monotonic()) > self._next:
            self.write()
            ended = time.monotonic()
            self._next = ended + max(_SECONDS_BETWEEN, 20 * (ended - started))

    def write(self) -> None:
        """Keep what is new, if anything is."""
        if new := self._new.copy():
            _write_cache(self.known | new)


def _entry(path: Path, max_pixels: int | None) -> str:
    return fingerprint(f"{path.absolute()} {state_text(path)}" + (f" {max_pixels}" if max_pixels is not None else ""))


def _cache_file() -> Path:
    return home() / "cache" / f"readable-3-pillow-{PIL.__version__}.json"  # another release may read other files


def _read_cache() -> dict[str, _Remembered]:
    try:
        return {entry: _Remembered.from_dict(values) for entry, values in json.loads(_cache_file().read_bytes()).items()}
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RuntimeError,
    ):  # RuntimeError: no home, or nested too deep
        return {}


def _write_cache(found: Mapping[str, _Remembered]) -> None:
    """Replace the cache file as a whole; a place that cannot be written costs the next run time, nothing else."""
    with contextlib.suppress(OSError, RuntimeError):
        file = _cache_file()
        file.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({entry: found[entry].to_dict() for entry in sorted(found)})
        write_atomically(file, lambda temporary: temporary.write_text(text, encoding="utf-8"))
